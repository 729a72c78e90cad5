package device_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/notify/device"
)

// A pass takes three statements, a flush one, a claim one and settling one, whatever the number of changes and
// devices; a pass that finds nothing takes one.
func TestStatementsDoNotGrow(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	s, tr := r.traced(t, func(context.Context, *pgx.Conn, step) {})
	marker, inbox := s.NewMarker(nil), s.NewInbox()
	took := func(want int64, what string, do func() error) {
		t.Helper()
		before := tr.statements.Load()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if got := tr.statements.Load() - before; got != want {
			t.Errorf("%s took %d statements, want %d", what, got, want)
		}
	}
	mark := func() error {
		_, err := marker.Mark(t.Context())
		return err
	}
	took(1, "an idle pass", mark)
	for _, n := range []int{1, 300} {
		rows := make([]row, 0, n)
		for i := range n {
			r.register(t, r.phone(fmt.Sprint(n, i), id(1000*n+i)))
			rows = append(rows, of(fmt.Sprint(n, i), ""))
		}
		r.commit(t, rows...)
		took(3, fmt.Sprintf("marking %d changes", n), mark)
		var due []device.Due
		took(1, fmt.Sprintf("claiming %d devices", n), func() (err error) {
			due, err = s.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, n)
			return err
		})
		if len(due) != n {
			t.Fatalf("%d of %d are due", len(due), n)
		}
		var results []device.Result
		for _, d := range due {
			results = append(results, device.Result{Device: d.Device, Nudge: d.Nudge, Verdict: device.Accepted})
			inbox.Heard(d.User, d.Device, device.Event{Acked: r.head(), Pulled: true, Nudge: d.Nudge})
		}
		took(1, fmt.Sprintf("settling %d devices", n), func() error { return s.Settle(t.Context(), results) })
		took(1, fmt.Sprintf("flushing %d devices", n), func() error { return inbox.Flush(t.Context()) })
		took(0, "flushing nothing", func() error { return inbox.Flush(t.Context()) })
		for i := range n {
			r.wantDue(t, fmt.Sprint(n, i), id(1000*n+i), none)
		}
	}
}

// A statement that was planned for a few devices is slow for thousands: every flush would then fail, with all that it
// wrote still to be written. More than fit in one are written in several.
func TestFlushOfMany(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	const devices = 15_000
	r.exec(t, `insert into nudge.devices (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
		select 'd' || lpad(i::text, 5, '0'), i::text, 'apns', '', int4send(i), 'app', '', '', now() from generate_series(0, $1 - 1) i`, devices)
	r.exec(t, `insert into nudge.due (device, user_id, road, app, environment) select device, user_id, road, app, environment from nudge.devices`)
	for n := range 7 { // Postgres thinks of another plan from the sixth on
		r.exec(t, `update nudge.due set due_epoch = $1, due_lsn = $2, due_seq = 1, next_at = now()`, int64(r.epoch), int64(r.lsn-10))
		for i := range devices {
			r.inbox.Heard(fmt.Sprint(i), id(i), device.Event{Acked: r.head(), Pulled: true})
		}
		if err := r.inbox.Flush(t.Context()); err != nil {
			t.Fatalf("flush %d: %v", n+1, err)
		}
		var due int
		if err := r.pool.QueryRow(t.Context(), `select count(*) from nudge.due where next_at is not null`).Scan(&due); err != nil || due != 0 {
			t.Fatalf("flush %d left %d devices due, %v", n+1, due, err)
		}
	}
}

// Marking reads what the changes concern, not every device.
func TestMarkingReadsNoMoreThanItMarks(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	const devices, changed = 100_000, 1000
	r.exec(t, `insert into nudge.devices (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
		select 'd' || lpad(i::text, 6, '0'), (i / 3)::text, 'apns', '', int4send(i), 'app', '', '', now() from generate_series(0, $1 - 1) i`, devices)
	r.exec(t, `insert into nudge.due (device, user_id, road, app, environment) select device, user_id, road, app, environment from nudge.devices`)
	r.exec(t, `analyze nudge.devices`)
	r.exec(t, `analyze nudge.due`)
	rows := make([]row, changed)
	for i := range rows {
		rows[i] = of(fmt.Sprint(i*7), "")
	}
	r.commit(t, rows...)
	r.exec(t, `analyze nudge.changes`)
	plan, err := r.store.MarkPlan(t.Context(), r.head())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"due", "devices"} {
		if strings.Contains(plan, "Seq Scan on "+table+" ") {
			t.Errorf("marking reads all of %s:\n%s", table, plan)
		}
	}
	var due int
	if err := r.pool.QueryRow(t.Context(), `select count(*) from nudge.due where next_at is not null`).Scan(&due); err != nil || due != 3*changed {
		t.Errorf("%d devices are due, %v", due, err)
	}
	if os.Getenv("NUDGE_TEST_LOG") != "" {
		t.Log(plan)
	}
}
