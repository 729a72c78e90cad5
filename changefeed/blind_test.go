package changefeed_test

import (
	"sync/atomic"
	"testing"

	"github.com/nudgesync/nudge/changefeed"
)

// A19: the watcher tells what the stream has taken up from its own description of the table meanwhile. It is no
// news then, and moves the log all the same: until that has passed the message, the watcher looks at nothing.
func TestA19ToldTwice(t *testing.T) {
	r := newRig(t)
	var held atomic.Pointer[chan struct{}]
	r.start(func(c *changefeed.Config) {
		often(c)
		c.Failpoint = func(s changefeed.Step) error {
			if hold := held.Load(); hold != nil && s == changefeed.BeforeAppend {
				<-*hold
			}
			return nil
		}
	})
	r.settle()
	r.exec(`insert into items values (1, 1)`)
	r.settle()
	r.exec(`select pg_create_logical_replication_slot($1, 'pgoutput')`, r.slot+"_spy")
	hold := make(chan struct{})
	held.Store(&hold)
	r.exec(`begin; alter table items add column mood text default 'calm'; update items set version = 2; commit`)
	r.eventually("the watcher tells", func() (told bool) {
		r.scan(&told, `
select exists (select from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'nudge', 'messages', 'true')
                where position('nudge.schema' in encode(data, 'escape')) > 0)`, r.slot+"_spy")
		return told
	})
	held.Store(nil)
	close(hold)
	// No heartbeat from here on: it would move the log.
	logged := func(n int) func() bool { return func() bool { return len(r.all()) == n } }
	r.eventually("the stream's own reset", logged(3))
	r.exec(`alter table items add column extra int default 7`)
	r.eventually("the watcher's", logged(4))
	r.exec(`alter table items add column more int default 8; alter publication nudge drop table items`)
	r.eventually("one before the stream ends", logged(5))
	r.expect(`u user:1 {"id":1}`, `r * public.items schema`, `u user:1 {"id":1}`,
		`r * public.items schema`, `r * public.items schema`)
}
