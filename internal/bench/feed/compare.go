package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/internal/bench"
)

// What can be run over a backlog.
const (
	floor      = "pg_recvlogical"
	durable    = "durable"
	decodeOnly = "decode"
)

// workload is a backlog and what is run over it, beside the floor.
type workload struct {
	name        string
	rows, perTx int
	runs        []string
}

// figures are the rates, in rows/s, of each kind of run.
type figures struct {
	rates map[string][]float64
}

// report is what one run says.
type report struct {
	Elapsed   time.Duration
	Processes []process // in the order in which they are printed
}

// process is one that took part in a run.
type process struct {
	Name string
	bench.Cost
}

// compare lets every kind of run have its turn, as often as there are pairs, over one backlog.
func (s *source) compare(ctx context.Context, w workload, o options, out io.Writer) (figures, error) {
	f := figures{rates: map[string][]float64{}}
	kinds := append([]string{floor}, w.runs...)
	slot := func(kind string, i int) string { return fmt.Sprintf("%s_%s_%d", w.name, kind, i) }
	// A feed begins its first epoch, and makes its slot, where it first starts.
	for i := range o.pairs {
		for _, kind := range kinds {
			var err error
			if kind == durable {
				_, err = child(ctx, run{What: begin, DSN: s.dsn, Slot: slot(kind, i)}, "")
			} else {
				err = s.exec(ctx, `select pg_create_logical_replication_slot($1, 'pgoutput')`, slot(kind, i))
			}
			if err != nil {
				return f, err
			}
		}
	}
	target, err := s.fill(ctx, w)
	if err != nil {
		return f, err
	}
	// Once for nothing: the WAL is in the page cache from then on.
	warm := w.name + "_warm"
	if err := s.exec(ctx, `select pg_copy_logical_replication_slot($1, $2)`, slot(floor, 0), warm); err != nil {
		return f, err
	}
	if _, err := s.drain(ctx, warm, target); err != nil {
		return f, err
	}
	for i := range o.pairs {
		for _, kind := range kinds {
			if err := s.exec(ctx, "checkpoint"); err != nil {
				return f, err
			}
			r, err := s.one(ctx, kind, slot(kind, i), target, profileName(o.profile, kind, w.name, i))
			if err != nil {
				return f, err
			}
			f.rates[kind] = append(f.rates[kind], float64(w.rows)/r.Elapsed.Seconds())
			if _, err := io.WriteString(out, r.line(w, kind, i)); err != nil {
				return f, err
			}
		}
	}
	// Theirs was the WAL of this backlog; the next one's slots hold what comes after it.
	return f, s.exec(ctx, `select pg_drop_replication_slot(slot_name) from pg_replication_slots`)
}

func (s *source) one(ctx context.Context, kind, slot string, target change.LSN, profile string) (report, error) {
	if kind == floor {
		return s.drain(ctx, slot, target)
	}
	return child(ctx, run{What: kind, DSN: s.dsn, Slot: slot, Target: uint64(target)}, profile)
}

func profileName(prefix, kind, workload string, i int) string {
	if prefix == "" || i > 0 {
		return ""
	}
	return prefix + "." + kind + "." + workload
}

// line says what a run cost.
func (r report) line(w workload, kind string, i int) string {
	var b strings.Builder
	rows := float64(w.rows)
	fmt.Fprintf(&b, "%-7s %-15s %d  %6.2f s  %8.0f rows/s", w.name, kind, i+1, r.Elapsed.Seconds(), rows/r.Elapsed.Seconds())
	for _, p := range r.Processes {
		fmt.Fprintf(&b, "   %s %.1f µs/row, %d MiB", p.Name, float64(p.CPU.Nanoseconds())/1e3/rows, p.Peak>>20)
	}
	return b.String() + "\n"
}
