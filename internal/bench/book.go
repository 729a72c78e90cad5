package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Sink is where results go besides the terminal.
type Sink struct {
	JSON string // the newest figure of each metric
	Book string // what was measured when, and on what; "" for no entry

	others string // what the machine did besides, before the run
}

// Flags names the sink on the command line.
func (s *Sink) Flags(flags *flag.FlagSet) {
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		s.others, _, _ = strings.Cut(string(text), " ")
	}
	flags.StringVar(&s.JSON, "out", ".bench/latest.json", "where the newest results go")
	flags.StringVar(&s.Book, "book", "BENCHMARKS.md", "where they are entered, with date and machine; empty for nowhere")
}

// Finish prints the results and keeps them. versions are what took part beside Go.
func (s Sink) Finish(ctx context.Context, w io.Writer, results []Result, versions ...string) error {
	if send, err := SendCost(ctx); err == nil {
		versions = append(versions, fmt.Sprintf("a send %.1f µs", float64(send.Nanoseconds())/1e3))
	}
	if s.others != "" {
		versions = append(versions, "load before the run "+s.others)
	}
	machine := Machine(versions...)
	if _, err := fmt.Fprintf(w, "\n%s\n", machine); err != nil {
		return err
	}
	if err := Print(w, results); err != nil {
		return err
	}
	if err := Save(s.JSON, results); err != nil {
		return err
	}
	if s.Book == "" {
		return nil
	}
	return enter(s.Book, results, machine, time.Now())
}

const (
	bookTop = `# Benchmarks

Kept by the bench programs (` + "`make bench`" + `): each run enters a row under its metric, the newest first. A figure is a
ratio to its floor, a program that does the least that the job could take, measured in turn with it in the same run; the
figures are medians, the ratio is the median of the pairs' ratios. "must" and "goal" are the bounds of that ratio. The programs'
own documentation, in internal/bench, says what subject and floor are.
`
	bookHead = "| date | subject | floor | unit | ratio | must | goal | verdict | machine |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
	bookKeep = 10 // rows of a metric
)

// enter writes results into the book.
func enter(path string, results []Result, machine string, now time.Time) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the book: %w", err)
	}
	sections := map[string][]string{} // rows by metric
	var names []string
	var name string
	for line := range strings.Lines(string(text)) {
		if heading, is := strings.CutPrefix(line, "## `"); is {
			name = strings.TrimSuffix(strings.TrimSpace(heading), "`")
			names = append(names, name)
			continue
		}
		if strings.HasPrefix(line, "| 2") { // a date: neither head nor rule
			sections[name] = append(sections[name], line)
		}
	}
	for _, r := range results {
		if !slices.Contains(names, r.Metric) {
			names = append(names, r.Metric)
		}
		cells := append([]string{now.UTC().Format("2006-01-02 15:04")}, r.cells()...)
		about := strings.Join(append([]string{machine}, r.remarks()...), "; ")
		cells = append(cells, strings.ReplaceAll(about, "|", "/"))
		rows := append([]string{"| " + strings.Join(cells, " | ") + " |\n"}, sections[r.Metric]...)
		sections[r.Metric] = rows[:min(len(rows), bookKeep)]
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(bookTop)
	for _, name := range names {
		fmt.Fprintf(&b, "\n## `%s`\n\n%s%s", name, bookHead, strings.Join(sections[name], ""))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the book: %w", err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write the book: %w", err)
	}
	return nil
}
