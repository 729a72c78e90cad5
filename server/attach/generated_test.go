package attach_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/server/attach"
)

// P11, P16: attach never leaves a table that the app can no longer write. Postgres 18 refuses updates
// under FULL where there are generated columns; before, they are simply not streamed.
func TestP16GeneratedColumnsUnderFull(t *testing.T) {
	for name, table := range map[string]string{
		"the owner may be null": `create table doubled (id int primary key, user_id int, g int generated always as (id * 2) stored)`,
		"it is full already": `create table doubled (id int primary key, user_id int not null, g int generated always as (id * 2) stored);
		                       alter table doubled replica identity full`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.exec(t, table)
			s.exec(t, "insert into doubled values (1, 1)")
			s.spec.Tables = append(s.spec.Tables, attach.TableSpec{Name: "public.doubled", Owner: "user_id"})
			var version int
			if err := s.conn.QueryRow(t.Context(), "select current_setting('server_version_num')::int").Scan(&version); err != nil {
				t.Fatal(err)
			}
			_, err := attach.Plan(t.Context(), s.conn, s.spec)
			var refused *attach.RefusedError
			if got := errors.As(err, &refused); got != (version >= 180000) {
				t.Fatalf("on %d: %v", version, err)
			}
			if refused != nil {
				for _, f := range refused.Findings {
					if f.Code != attach.CodeReplicaIdentity || !strings.Contains(f.Message, "g") {
						t.Errorf("%+v", f)
					}
					s.exec(t, f.Fix)
				}
			}
			s.attach(t)
			for _, sql := range []string{"update doubled set user_id = 2", "delete from doubled"} {
				if _, err := s.conn.Exec(t.Context(), sql); err != nil {
					t.Errorf("the app's own write fails: %s: %v", sql, err)
				}
			}
		})
	}
}
