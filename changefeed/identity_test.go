package changefeed_test

import (
	"testing"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

// P11: a table that nobody writes to has lost its replica identity. That is said at once, and no device is told
// anything; its next update or delete, whose row nobody knows, is a reset.
func TestP11QuietTable(t *testing.T) {
	const parts = `
create table visits (id bigint primary key, user_id bigint) partition by range (id);
create table low partition of visits for values from (0) to (100);
-- Has no rows of its own, so its identity, which is the default one, does not matter.
create table high partition of visits for values from (100) to (200) partition by range (id);
create table highest partition of high for values from (100) to (200);
alter table highest replica identity full;
alter table visits replica identity full; alter table low replica identity full;
alter publication nudge set table items, visits; alter publication nudge set (publish_via_partition_root = true);`
	for name, c := range map[string]struct{ make, lose, mend, insert, update string }{
		"default": {
			``, `alter table items replica identity default`, `alter table items replica identity full`,
			`insert into items values (1, 1)`, `update items set version = version + 1`,
		},
		"dropped index": {
			`alter table items alter user_id set not null; create unique index by_owner on items (user_id, id); alter table items replica identity using index by_owner`,
			`drop index by_owner`, `alter table items replica identity full`,
			`insert into items values (1, 1)`, ``, // the server refuses it
		},
		"an index without the key": {
			`alter table items alter user_id set not null; create unique index by_owner on items (user_id) include (id)`,
			`alter table items replica identity using index by_owner`, `alter table items replica identity full`,
			`insert into items values (1, 1)`, `update items set version = version + 1`,
		},
		"a partition": {
			parts, `alter table low replica identity default`, `alter table low replica identity full`,
			`insert into visits values (1, 1)`, `update visits set user_id = 1`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.exec(c.make + `;` + c.insert)
			specs := map[string]route.Spec{"public.items": {Owner: "user_id"}}
			table := "public.items"
			if c.make == parts {
				table = "public.visits"
				specs[table] = route.Spec{Owner: "user_id"}
			}
			var o told
			r.start(func(cfg *changefeed.Config) {
				often(cfg)
				o.to(cfg)
				cfg.Routing = r.routing(specs)
			})
			before := r.settle()
			said := func() int { return o.count("does not say whose row is gone") }
			blind := func(n float64) func() bool {
				return func() bool { return o.gauge(t, "nudge_feed_blind_tables") == n }
			}
			r.exec(c.lose)
			r.eventually("it is counted", blind(1))
			if c.make != parts { // a partition's is known by its table's resets (P12)
				r.settle()
				r.expect()
			}
			if c.update != "" {
				r.exec(c.update)
				r.waitFor("r * " + table + " repair")
			}
			r.exec(c.mend)
			r.eventually("it is counted no more", blind(0))
			if n := said(); n != 1 {
				t.Errorf("%d lines say it", n)
			}
			r.exec(`insert into items values (7, 2)`)
			r.waitFor(`u user:2 {"id":7}`)
			if s := r.state("now", func(changelog.State) bool { return true }); s.Epoch != before.Epoch {
				t.Errorf("a new epoch: %s", s.Reason)
			}
		})
	}
}
