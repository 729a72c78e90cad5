package layout_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	numbered = regexp.MustCompile(`(?m)^func Test((?:[API]\d{1,2})+)[A-Z]`)
	number   = regexp.MustCompile(`([API])(\d{1,2})`)
	listed   = regexp.MustCompile(`(?m)^\| ([API]\d\d) \| [^|]+ \| ([^|]+) \|$`)
)

// TestTestsByNumber holds ARCHITECTURE.md's table of numbered tests to the tests: each number with the packages
// that test it. Every pitfall is there, but those that the text says can't arise.
func TestTestsByNumber(t *testing.T) {
	top := root(t)
	found := map[string][]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != top {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(top, filepath.Dir(path))
		for _, name := range numbered.FindAllSubmatch(src, -1) {
			for _, n := range number.FindAllStringSubmatch(string(name[1]), -1) {
				key := fmt.Sprintf("%s%02s", n[1], n[2])
				if !slices.Contains(found[key], dir) {
					found[key] = append(found[key], dir)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(top, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	said := map[string][]string{}
	for _, row := range listed.FindAllSubmatch(text, -1) {
		said[string(row[1])] = strings.Split(string(row[2]), ", ")
	}
	for n, dirs := range found {
		slices.Sort(dirs)
		if slices.Sort(said[n]); !slices.Equal(said[n], dirs) {
			t.Errorf("%s is tested in %v; the table says %v", n, dirs, said[n])
		}
	}
	for n := range said {
		if found[n] == nil {
			t.Errorf("%s has no test of its number", n)
		}
	}
	for p := 1; p <= 27; p++ {
		if n := fmt.Sprintf("P%02d", p); found[n] == nil && !strings.Contains(string(text), "\n"+n+" (") && !strings.Contains(string(text), " "+n+" (") {
			t.Errorf("%s has neither a test nor a word on why it can't arise", n)
		}
	}
}
