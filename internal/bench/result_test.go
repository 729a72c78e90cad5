package bench_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/internal/bench"
)

func TestVerdict(t *testing.T) {
	higher := bench.Result{Must: 0.5, Goal: 0.8, Better: "higher"}
	lower := bench.Result{Must: 4, Goal: 2, Better: "lower"}
	with := func(r bench.Result, change func(*bench.Result)) bench.Result { change(&r); return r }
	for want, all := range map[string][]bench.Result{
		"goal": {
			with(higher, func(r *bench.Result) { r.Ratio = 0.8 }), with(lower, func(r *bench.Result) { r.Ratio = 2 }),
			with(higher, func(r *bench.Result) { r.Ratio, r.Floor, r.Usual = 0.9, 71, 100 }),
		},
		"must": {
			with(higher, func(r *bench.Result) { r.Ratio = 0.5 }), with(lower, func(r *bench.Result) { r.Ratio = 4 }),
			with(lower, func(r *bench.Result) { r.Ratio, r.Must = 9, 0 }),
			with(higher, func(r *bench.Result) { r.Ratio, r.Goal = 0.9, 0 }),
		},
		"below": {
			with(higher, func(r *bench.Result) { r.Ratio = 0.4 }), with(lower, func(r *bench.Result) { r.Ratio = 5 }),
			with(lower, func(r *bench.Result) { r.Ratio, r.Broken = 1, "an answer of 503" }),
			with(higher, func(r *bench.Result) { r.Ratio, r.Goal = 0.4, 0 }),
		},
		"-":                   {{Ratio: 3, Better: "lower"}},
		"goal, floor suspect": {with(higher, func(r *bench.Result) { r.Ratio, r.Floor, r.Usual = 0.9, 69, 100 }), with(higher, func(r *bench.Result) { r.Ratio, r.Floor, r.Usual = 0.9, 131, 100 })},
	} {
		for _, r := range all {
			if got := r.Verdict(); got != want {
				t.Errorf("%+v: %q, want %q", r, got, want)
			}
		}
	}
}

func TestPairsAreMedians(t *testing.T) {
	r := bench.Pairs(bench.Result{}, []float64{10, 30, 20}, []float64{10, 10, 40})
	if r.Subject != 20 || r.Floor != 10 || r.Ratio != 1 {
		t.Errorf("%+v", r)
	}
}

// A metric's newest figure replaces the one before in the file, and stands above it in the book.
func TestSinkKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	s := bench.Sink{JSON: filepath.Join(dir, "a", "latest.json"), Book: filepath.Join(dir, "BOOK.md")}
	for _, subject := range []float64{101, 202} {
		for _, metric := range []string{"b.two", "a.one"} {
			r := bench.Result{Metric: metric, Subject: subject, Floor: 50, Unit: "x/s", Ratio: subject / 50, Better: "higher"}
			if err := s.Finish(t.Context(), io.Discard, []bench.Result{r}, "Postgres 1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := os.ReadFile(s.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var kept []bench.Result
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	if len(kept) != 2 || kept[0].Subject != 202 || kept[1].Subject != 202 {
		t.Errorf("kept %+v", kept)
	}
	book, err := os.ReadFile(s.Book)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for line := range strings.Lines(string(book)) {
		switch {
		case strings.HasPrefix(line, "## "):
			order = append(order, strings.TrimSpace(line))
		case strings.HasPrefix(line, "| 2"):
			order = append(order, strings.TrimSpace(strings.Split(line, "|")[2]))
			if !strings.Contains(line, "Postgres 1") {
				t.Errorf("a row without versions: %s", line)
			}
		}
	}
	if got, want := strings.Join(order, " "), "## `a.one` 202 101 ## `b.two` 202 101"; got != want {
		t.Errorf("the book has %s, want %s", got, want)
	}
}
