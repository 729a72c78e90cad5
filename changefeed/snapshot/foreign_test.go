package snapshot_test

import (
	"strings"
	"testing"

	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

const foreignSchema = `create table t (id int primary key, owner int not null); insert into t values (1, 1)`

// A database that is no replica of the source is not read, whatever it holds.
func TestA24ForeignDatabases(t *testing.T) {
	p := connectPair(t, pgtest.Database(t), pgtest.Database(t), foreignSchema)
	p.exec(p.replica, foreignSchema)
	p.refused(p.log(), snapshot.ErrForeign) // another database
	p.replica = pgtest.Pool(t, p.primary.Config().ConnString(), value.SessionSettings())
	p.expect(p.log(), 1) // the primary, by another name
	log := p.log()
	log.SystemID = "7"
	p.refused(log, snapshot.ErrForeign)
	log = p.log()
	log.Timeline = 2
	p.refused(log, snapshot.ErrForeign)
}

// A replica that was promoted, or follows one that was, is on another history, whatever it still says of itself
// elsewhere; and one whose history can't be seen is not trusted.
func TestA24PromotedReplicas(t *testing.T) {
	primary, standby := pgtest.Pair(t, quiet)
	cascade := pgtest.Follower(t, standby, quiet)
	p := connectPair(t, primary.DSN("postgres"), standby.DSN("postgres"), foreignSchema+`; create role reader login; grant select on t to reader`)
	log := p.log()
	p.expect(log, 1)
	first := p.replica

	p.replica = pgtest.Pool(t, strings.Replace(cascade.DSN("postgres"), "postgres@", "reader@", 1), value.SessionSettings())
	second := pgtest.Pool(t, cascade.DSN("postgres"), value.SessionSettings())
	until(t, second, `exists (select from pg_roles where rolname = 'reader')`)
	p.refused(log, snapshot.ErrBehind) // it may not see

	p.replica = second
	p.expect(log, 1)

	p.exec(first, `select pg_promote()`)
	p.exec(first, `insert into t values (2, 1)`)
	until(t, second, `exists (select from t where id = 2)`)
	p.refused(log, snapshot.ErrForeign)
	p.replica = first
	p.refused(log, snapshot.ErrForeign)
}
