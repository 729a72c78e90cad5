package changefeed_test

import (
	"testing"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/route"
)

// P12: a partition that is configured for itself streams under its root's name where that is published by its
// root: its changes would be nobody's.
func TestP12PartitionThatStreamsAsItsRoot(t *testing.T) {
	r := newRig(t)
	r.exec(`create table parts (id int primary key, user_id int) partition by range (id)`)
	r.exec(`create table leaf partition of parts for values from (0) to (100); alter table leaf replica identity full`)
	for _, published := range []string{`table parts`, `table leaf, parts`, `all tables`} {
		r.exec(`drop publication if exists p; create publication p for ` + published + ` with (publish_via_partition_root = true)`)
		r.refusedAs("public.leaf", "under the name of its root")
	}
	r.exec(`create publication root for table parts; create publication leaf for table leaf with (publish_via_partition_root = true)`)
	for i, publication := range []string{"root", "leaf"} {
		stop := r.start(func(c *changefeed.Config) {
			c.Publication = publication
			c.Routing = r.routing(map[string]route.Spec{"public.leaf": {Owner: "user_id"}})
		})
		r.settle()
		r.exec(`insert into parts values ($1, 7)`, i)
		r.settle()
		r.expect([]string{`u user:7 {"id":0}`, `u user:7 {"id":1}`}[i])
		stop()
		r.released()
	}
}
