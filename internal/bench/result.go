// Package bench holds what the benchmark programs below it share: how a result is judged, printed and
// kept, and what a process costs.
//
// Machines are noisy, so a figure means nothing by itself. Each is a ratio to a floor, a program that
// does the least that the job could take, measured in turn with the subject in the same run.
package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Result is one metric. Subject and Floor are medians in Unit; Ratio is the median of the pairs' ratios,
// subject to floor.
type Result struct {
	Metric  string  `json:"metric"`
	Subject float64 `json:"subject"`
	Floor   float64 `json:"floor"`
	Unit    string  `json:"unit"`
	Ratio   float64 `json:"ratio"`
	Must    float64 `json:"must"`
	Goal    float64 `json:"goal"`
	Better  string  `json:"better"` // "higher" or "lower": which ratio is

	// Usual is the floor where the bounds were set, 0 if none was recorded: one far from it is suspect.
	Usual float64 `json:"usual,omitempty"`
	// Broken is what had to hold, whatever the ratio, and did not.
	Broken string `json:"broken,omitempty"`
	Note   string `json:"note,omitempty"`
}

// farOff is how far a floor may be from the usual one.
const farOff = 0.3

// Suspect reports whether the floor is so far from the usual one that the ratio says little.
func (r Result) Suspect() bool {
	return r.Usual > 0 && (r.Floor < r.Usual*(1-farOff) || r.Floor > r.Usual*(1+farOff))
}

// Pairs makes a result of figures that were measured in turn, the i-th of both together.
func Pairs(r Result, subject, floor []float64) Result {
	ratios := make([]float64, len(subject))
	for i := range subject {
		ratios[i] = subject[i] / floor[i]
	}
	r.Subject, r.Floor, r.Ratio = Median(subject), Median(floor), Median(ratios)
	return r
}

// Median of a list that is not empty.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// Verdict is "goal", "must" or "below", or "-" for a figure that has no bounds. A suspect floor is said.
func (r Result) Verdict() string {
	verdict := r.judge()
	if r.Suspect() {
		verdict += ", floor suspect"
	}
	return verdict
}

func (r Result) judge() string {
	reaches := func(bound float64) bool {
		if r.Better == "lower" {
			return r.Ratio <= bound
		}
		return r.Ratio >= bound
	}
	switch {
	case r.Broken != "":
		return "below"
	case r.Must == 0 && r.Goal == 0:
		return "-"
	case r.Goal != 0 && reaches(r.Goal):
		return "goal"
	case r.Must == 0 || reaches(r.Must):
		return "must"
	}
	return "below"
}

// cells are a result's columns, as people read them.
func (r Result) cells() []string {
	bound := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return []string{
		figure(r.Subject), figure(r.Floor), r.Unit, strconv.FormatFloat(r.Ratio, 'f', 2, 64),
		bound(r.Must), bound(r.Goal), r.Verdict(),
	}
}

// figure shows at least three digits.
func figure(v float64) string {
	if v < 100 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// remarks are the lines below a result's row.
func (r Result) remarks() []string {
	var out []string
	if r.Broken != "" {
		out = append(out, "below, whatever the ratio: "+r.Broken)
	}
	if r.Suspect() {
		out = append(out, fmt.Sprintf("the floor was %s %s where the bounds were set", figure(r.Usual), r.Unit))
	}
	if r.Note != "" {
		out = append(out, r.Note)
	}
	return out
}

// Print writes the table, and below it what there is to say about a row.
func Print(w io.Writer, results []Result) error {
	var b strings.Builder
	b.WriteString("\nmetric\tsubject\tfloor\tunit\tratio\tmust\tgoal\tverdict\n")
	for _, r := range results {
		b.WriteString(r.Metric + "\t" + strings.Join(r.cells(), "\t") + "\n")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if _, err := io.WriteString(tw, b.String()); err != nil {
		return err
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for _, line := range r.remarks() {
			if _, err := fmt.Fprintf(w, "%s: %s\n", r.Metric, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// Save writes the results into the file, an array in JSON, in the place of earlier ones of the same
// metrics.
func Save(path string, results []Result) error {
	var kept []Result
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read earlier results: %w", err)
	default:
		if err := json.Unmarshal(b, &kept); err != nil {
			return fmt.Errorf("read earlier results, %s: %w", path, err)
		}
	}
	kept = slices.DeleteFunc(kept, func(k Result) bool {
		return slices.ContainsFunc(results, func(r Result) bool { return r.Metric == k.Metric })
	})
	if b, err = json.MarshalIndent(append(kept, results...), "", "  "); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save results: %w", err)
	}
	return nil
}
