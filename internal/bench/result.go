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

// Verdict is "goal", "must" or "below".
func (r Result) Verdict() string {
	reaches := func(bound float64) bool {
		if r.Better == "lower" {
			return r.Ratio <= bound
		}
		return r.Ratio >= bound
	}
	switch {
	case reaches(r.Goal):
		return "goal"
	case reaches(r.Must):
		return "must"
	}
	return "below"
}

// Print writes the table.
func Print(w io.Writer, results []Result) error {
	var b strings.Builder
	b.WriteString("\nmetric\tsubject\tfloor\tunit\tratio\tmust\tgoal\tverdict\n")
	for _, r := range results {
		fmt.Fprintf(&b, "%s\t%.0f\t%.0f\t%s\t%.2f\t%.2f\t%.2f\t%s\n", r.Metric, r.Subject, r.Floor, r.Unit, r.Ratio, r.Must, r.Goal, r.Verdict())
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if _, err := io.WriteString(tw, b.String()); err != nil {
		return err
	}
	return tw.Flush()
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
