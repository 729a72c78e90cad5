package changefeed_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
)

const originSecret = "a secret that the app's backend and nudge share"

// sign is what README.md tells an app to do.
func sign(xid, device string) string {
	mac := hmac.New(sha256.New, []byte(originSecret))
	mac.Write([]byte(xid + ":" + device))
	return device + ":" + hex.EncodeToString(mac.Sum(nil))
}

// writeAs inserts an item in a transaction and emits what origins makes of its id. It returns that.
func (r *rig) writeAs(id int, origins func(xid string) []string) []string {
	r.t.Helper()
	var emitted []string
	err := pgx.BeginFunc(r.t.Context(), r.db, func(tx pgx.Tx) error {
		var xid string
		if err := tx.QueryRow(r.t.Context(), `select pg_current_xact_id()::xid::text`).Scan(&xid); err != nil {
			return err
		}
		emitted = origins(xid)
		for _, o := range emitted {
			if _, err := tx.Exec(r.t.Context(), `select nudge.origin($1)`, o); err != nil {
				return err
			}
		}
		_, err := tx.Exec(r.t.Context(), `insert into items values ($1, 1)`, id)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return emitted
}

// P23: where signatures are demanded, a device is believed only in the transaction that it was signed for.
func TestP23SignedOrigin(t *testing.T) {
	r := newRig(t)
	metrics := prometheus.NewRegistry()
	r.start(func(c *changefeed.Config) {
		c.OriginSecret, c.Metrics = []byte(originSecret), changefeed.NewMetrics(metrics)
	})
	r.settle()
	if d := cmp.Diff(map[string]float64{"malformed": 0, "unsigned": 0, "forged": 0}, byReason(t, metrics)); d != "" {
		t.Errorf("before any: %s", d)
	}
	seen := r.writeAs(1, func(xid string) []string { return []string{sign(xid, "phone")} })
	r.writeAs(2, func(string) []string { return []string{"phone"} })
	r.writeAs(3, func(string) []string { return seen }) // replayed
	r.writeAs(4, func(xid string) []string { return []string{"tablet" + sign(xid, "phone")[len("phone"):]} })
	r.writeAs(5, func(xid string) []string { return []string{"tablet", sign(xid, "a:phone"), seen[0]} }) // a forgery beside it does no harm
	r.writeAs(6, func(xid string) []string { return []string{sign(xid, "phone"), sign(xid, "tablet")} })
	r.writeAs(7, func(xid string) []string { return []string{sign(xid, "")} })
	r.settle()
	r.expect(`u user:1 {"id":1} by phone`, `u user:1 {"id":2}`, `u user:1 {"id":3}`, `u user:1 {"id":4}`,
		`u user:1 {"id":5} by a:phone`, `u user:1 {"id":6}`, `u user:1 {"id":7}`)
	if d := cmp.Diff(map[string]float64{"malformed": 1, "unsigned": 2, "forged": 3}, byReason(t, metrics)); d != "" {
		t.Error(d)
	}
}

// The line of SQL that README.md gives does as its lines of code do. pgcrypto is not in every build of
// Postgres: where it is missing, an hmac of the same name and meaning stands in for it.
func TestP23OriginSignedInSQL(t *testing.T) {
	r := newRig(t)
	var there bool
	if err := r.db.QueryRow(t.Context(), `select exists (select from pg_available_extensions where name = 'pgcrypto')`).Scan(&there); err != nil {
		t.Fatal(err)
	}
	if there {
		r.exec(`create extension pgcrypto`)
	} else {
		r.exec(hmacInSQL)
	}
	r.start(func(c *changefeed.Config) { c.OriginSecret = []byte(originSecret) })
	r.settle()
	r.exec(`begin;
		select nudge.origin('phone:' || encode(hmac(pg_current_xact_id()::xid || ':phone', '` + strings.ReplaceAll(originSecret, "'", "''") + `', 'sha256'), 'hex'));
		insert into items values (1, 1);
		commit`)
	r.settle()
	r.expect(`u user:1 {"id":1} by phone`)
}

// hmacInSQL is RFC 2104 for secrets of up to 64 bytes.
const hmacInSQL = `
create function padded(secret text, pad int) returns bytea language plpgsql as $$
declare k bytea := decode(rpad(encode(convert_to(secret, 'UTF8'), 'hex'), 128, '0'), 'hex');
begin
  for i in 0..63 loop k := set_byte(k, i, get_byte(k, i) # pad); end loop;
  return k;
end $$;
create function hmac(data text, secret text, algorithm text) returns bytea language sql as $$
  select sha256(padded(secret, 92) || sha256(padded(secret, 54) || convert_to(data, 'UTF8')))
$$;`

func byReason(t *testing.T, metrics *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "nudge_feed_origins_ignored_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}
