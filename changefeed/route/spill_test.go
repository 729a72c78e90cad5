package route_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
)

var committed = time.UnixMicro(1_700_000_000_000_001).UTC()

// drain is what a transaction comes to, wherever it was kept.
func drain(tb interface{ Fatal(...any) }, tx *route.Tx) (out []change.Change, spilled bool) {
	changes, s := tx.Commit(5, 0xabc, committed, "phone")
	if s == nil {
		return changes, false
	}
	defer s.Close()
	if err := s.Fold(context.Background()); err != nil {
		tb.Fatal(err)
	}
	for {
		c, err := s.Next()
		if errors.Is(err, io.EOF) {
			if s.Changes() != len(out) {
				tb.Fatal("counted ", s.Changes(), " of ", len(out))
			}
			return out, true
		}
		if err != nil {
			tb.Fatal(err)
		}
		own := *c // good until the next call
		own.Key, own.Row = slices.Clone(c.Key), slices.Clone(c.Row)
		out = append(out, own)
	}
}

// disk makes files that count how many of them are open.
type disk struct{ open int }

type countedFile struct {
	route.File
	disk *disk
}

func (d *disk) Create() (route.File, error) {
	f, err := route.TempFile("")
	if err != nil {
		return nil, err
	}
	d.open++
	return countedFile{f, d}, nil
}

func (f countedFile) Close() error {
	f.disk.open--
	return f.File.Close()
}

// I3: what a transaction leaves in the log does not depend on where it was kept meanwhile. Few rows, so
// that they are born, patched, moved, deleted and brought back again and again, with resets in between.
func TestSpillPropertySameAsInMemory(t *testing.T) {
	t.Parallel()
	table, other := items(t), items(t)
	rapid.Check(t, func(t *rapid.T) {
		var memory route.Tx
		var d disk
		onDisk := route.Tx{Disk: route.Disk{Bytes: rapid.IntRange(1, 4000).Draw(t, "bytes"), Create: d.Create}}
		ids, users := rapid.IntRange(1, 40).Draw(t, "ids"), rapid.IntRange(1, 3).Draw(t, "users")
		row := func(label string, holes bool) []pgoutput.Value {
			v := []pgoutput.Value{
				text(strconv.Itoa(rapid.IntRange(1, ids).Draw(t, label+" id"))),
				text(strconv.Itoa(rapid.IntRange(1, users).Draw(t, label+" user"))),
				text(rapid.SampledFrom([]string{"", "a", "with \"quotes\"", "é\n"}).Draw(t, label+" body")),
			}
			if rapid.IntRange(0, 9).Draw(t, label+" null") == 0 {
				v[1] = pgoutput.Value{Kind: pgoutput.Null}
			}
			if holes && rapid.Bool().Draw(t, label+" hole") {
				v[2] = pgoutput.Value{Kind: pgoutput.Unchanged}
			}
			return v
		}
		for range rapid.IntRange(0, 120).Draw(t, "events") {
			do := rapid.IntRange(0, 30).Draw(t, "do")
			old, now := row("old", true), row("new", true)
			if do%3 == 1 {
				old[0], old[1] = now[0], now[1] // in place
			}
			for _, tx := range []*route.Tx{&memory, &onDisk} {
				tb := table
				if do%2 == 0 {
					tb = other
				}
				switch {
				case do == 30:
					tx.ResetAll(change.ReasonSchema)
				case do == 29:
					tx.Reset("public.items", change.ReasonTruncate)
				case do == 28:
					tb.Insert(tx, now[:2]) // malformed
				case do < 8:
					tb.Insert(tx, slices.Clone(now))
				case do < 20:
					tb.Update(tx, slices.Clone(old), slices.Clone(now)) // routing fills holes in place
				case do < 23:
					tb.Update(tx, nil, slices.Clone(now))
				default:
					tb.Delete(tx, old)
				}
			}
		}
		if err := onDisk.Err(); err != nil {
			t.Fatal(err)
		}
		want, _ := drain(t, &memory)
		got, spilled := drain(t, &onDisk)
		if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
			t.Errorf("spilled %v: -memory +disk\n%s", spilled, diff)
		}
		if d.open != 0 {
			t.Errorf("%d files are left open", d.open)
		}
	})
}

// Many rows in few bytes of memory: more parts than one, false alarms, and rows that came once.
func TestSpillManyParts(t *testing.T) {
	t.Parallel()
	table := items(t)
	var memory route.Tx
	var d disk
	onDisk := route.Tx{Disk: route.Disk{Bytes: 20_000, Create: d.Create}}
	for _, tx := range []*route.Tx{&memory, &onDisk} {
		for i := range 30_000 {
			table.Insert(tx, []pgoutput.Value{text(strconv.Itoa(i)), text("1"), text("born")})
		}
		for i := 0; i < 30_000; i += 3 {
			at := []pgoutput.Value{text(strconv.Itoa(i)), text("1"), text("born")}
			if i%2 == 0 {
				table.Delete(tx, at)
			} else {
				table.Update(tx, at, []pgoutput.Value{at[0], text("2"), text("moved")})
			}
		}
	}
	if onDisk.Bytes() > 60_000 {
		t.Errorf("%d bytes of memory", onDisk.Bytes())
	}
	want, _ := drain(t, &memory)
	got, spilled := drain(t, &onDisk)
	if !spilled || len(want) != 25_000 {
		t.Fatalf("spilled %v, %d changes", spilled, len(want))
	}
	if len(got) != len(want) {
		t.Fatalf("%d changes", len(got))
	}
	for i := range want {
		if !reflect.DeepEqual(want[i], got[i]) { // cmp takes half a minute for as many
			t.Fatal(cmp.Diff(want[i], got[i]))
		}
	}
	if d.open != 0 {
		t.Errorf("%d files are left open", d.open)
	}
}

// One row that comes and goes for ever takes no memory when it folds: there is nothing to remember.
func TestSpillRowOfManyLives(t *testing.T) {
	t.Parallel()
	table := items(t)
	var d disk
	tx := route.Tx{Disk: route.Disk{Bytes: 10_000, Create: d.Create}}
	row := []pgoutput.Value{text("1"), text("1"), text("job")}
	for range 50_000 {
		table.Insert(&tx, row)
		table.Delete(&tx, row)
	}
	table.Insert(&tx, row)
	got, spilled := drain(t, &tx)
	if !spilled || len(got) != 1 || got[0].Op != change.Upsert || got[0].Pos.Seq != 1 {
		t.Errorf("spilled %v: %v", spilled, got)
	}
}

// full is a disk with room for so many writes, over all of its files.
type full struct {
	disk
	room int
}

type fullFile struct {
	countedFile
	full *full
}

func (d *full) Create() (route.File, error) {
	f, err := d.disk.Create()
	if err != nil {
		return nil, err
	}
	return fullFile{f.(countedFile), d}, nil
}

func (f fullFile) Write(p []byte) (int, error) {
	if f.full.room == 0 {
		return 0, &os.PathError{Op: "write", Path: "spill", Err: syscall.ENOSPC}
	}
	f.full.room--
	return f.File.Write(p)
}

// A disk that fills up, at whatever write, is an error with a code, and leaves no file open.
func TestSpillDiskFull(t *testing.T) {
	t.Parallel()
	table := items(t)
	succeeded := false
	for room := 0; !succeeded; room++ {
		d := &full{room: room}
		tx := route.Tx{Disk: route.Disk{Bytes: 50_000, Create: d.Create}}
		for i := range 2000 {
			table.Insert(&tx, []pgoutput.Value{text(strconv.Itoa(i % 700)), text("1"), text(fmt.Sprintf("%0100d", i))})
		}
		err := tx.Err()
		if err != nil {
			tx.Discard()
		} else {
			_, s := tx.Commit(1, 2, committed, "")
			if err = s.Fold(context.Background()); err == nil {
				for err == nil {
					_, err = s.Next()
				}
			}
			s.Close()
		}
		switch {
		case errors.Is(err, io.EOF):
			succeeded = true
		case !errors.Is(err, route.ErrSpill) || !errors.Is(err, syscall.ENOSPC):
			t.Fatalf("room for %d writes: %v", room, err)
		}
		if d.open != 0 {
			t.Fatalf("room for %d writes: %d files are left open", room, d.open)
		}
	}
}

// A file that lost its end is an error, never a shorter transaction.
func TestSpillTruncatedFile(t *testing.T) {
	t.Parallel()
	table := items(t)
	for cut := range int64(100) {
		var f *os.File
		tx := route.Tx{Disk: route.Disk{Bytes: 5000, Create: func() (route.File, error) {
			made, err := route.TempFile("")
			f = made.(*os.File)
			return made, err
		}}}
		for i := range 200 {
			table.Insert(&tx, []pgoutput.Value{text(strconv.Itoa(i)), text("1"), text("body")})
		}
		table.Delete(&tx, []pgoutput.Value{text("7"), text("1"), text("body")})
		first := f
		_, s := tx.Commit(1, 2, committed, "")
		if err := s.Fold(t.Context()); err != nil {
			t.Fatal(err)
		}
		at, err := first.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Truncate(at - cut - 1); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = s.Next()
		}
		if !errors.Is(err, route.ErrSpill) {
			t.Fatalf("%d bytes less: %v", cut+1, err)
		}
		s.Close()
	}
}

func TestSpillFoldEndsWithItsContext(t *testing.T) {
	t.Parallel()
	table := items(t)
	var d disk
	tx := route.Tx{Disk: route.Disk{Bytes: 1, Create: d.Create}}
	for range 10 {
		table.Insert(&tx, []pgoutput.Value{text("1"), text("1"), text("body")})
	}
	_, s := tx.Commit(1, 2, committed, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if err := s.Fold(ctx); !errors.Is(err, stop) {
		t.Error(err)
	}
	s.Close()
	if d.open != 0 {
		t.Errorf("%d files are left open", d.open)
	}
}

// Transactions of a million rows, in memory that is a fraction of theirs.
func BenchmarkTxSpilled(b *testing.B) {
	table := items(b)
	const rows = 1_000_000
	for b.Loop() {
		tx := route.Tx{Disk: route.Disk{Bytes: 32 << 20, Create: func() (route.File, error) { return route.TempFile("") }}}
		row := []pgoutput.Value{text(""), text("42"), text("take with food")}
		for i := range rows {
			row[0].Text = strconv.AppendInt(row[0].Text[:0], int64(i), 10)
			table.Insert(&tx, row)
		}
		_, s := tx.Commit(1, 2, committed, "")
		if err := s.Fold(b.Context()); err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := s.Next(); err != nil {
				break
			}
		}
		s.Close()
	}
	b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
}
