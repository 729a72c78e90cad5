package device_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/nudgesync/nudge/notify/device"
)

// A claim reads what it claims, and nothing of 100,000 devices that wait for a provider that is dead.
func TestClaimingReadsNoMoreThanItClaims(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	const dead, most = 100_000, 50
	r.exec(t, `insert into nudge.devices (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
		select 'd' || i, i::text, 'apns', '', int4send(i), 'dead', 'production', '', now() from generate_series(1, $1) i`, dead)
	for i, p := range []struct{ app, environment string }{{"well", "production"}, {"fine", "production"}, {"dead", "sandbox"}} {
		r.exec(t, `insert into nudge.devices (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
			select $1 || '/' || $2 || i, i::text, 'apns', '', int8send($3 * 1000 + i), $1, $2, '', now() from generate_series(1, 100) i`,
			p.app, p.environment, i)
	}
	r.exec(t, `insert into nudge.due (device, user_id, road, app, environment, due_epoch, due_lsn, due_seq, due_since, urgency, next_at)
		select device, user_id, road, app, environment, 1, 1, 1, now(), 1,
		       now() - case when app = 'dead' and environment = 'production' then interval '1 minute' else interval '1 second' end
		  from nudge.devices`)
	r.exec(t, `analyze nudge.devices`)
	r.exec(t, `analyze nudge.due`)
	for _, c := range []struct {
		name   string
		of     device.Selection
		chosen float64 // rows read to choose, at most
	}{
		{"one app", device.Selection{Road: device.RoadAPNs, Environment: "production", Apps: []string{"well"}}, most},
		{"two apps", device.Selection{Road: device.RoadAPNs, Environment: "production", Apps: []string{"fine", "well"}}, 2 * most},
		{"the other environment", device.Selection{Road: device.RoadAPNs, Environment: "sandbox", Apps: []string{"dead"}}, most},
		{"an app that nothing is due of", device.Selection{Road: device.RoadAPNs, Environment: "production", Apps: []string{"idle"}}, 0},
		{"every app", device.Selection{Road: device.RoadAPNs, Others: true}, most},
	} {
		text, err := r.store.ClaimPlan(t.Context(), c.of, most)
		if err != nil {
			t.Fatal(err)
		}
		var plans []struct {
			Plan plan
			Took float64 `json:"Execution Time"`
		}
		if err := json.Unmarshal([]byte(text), &plans); err != nil {
			t.Fatal(err)
		}
		read := plans[0].Plan.read()
		if read > c.chosen+4*most { // and those chosen again, to look for revocations and to write them
			t.Errorf("%s: read %.0f rows for %d devices", c.name, read, most)
		}
		if os.Getenv("NUDGE_TEST_LOG") != "" {
			t.Logf("%s: %.0f rows, %.2f ms\n%s", c.name, read, plans[0].Took, text)
		}
	}
}

// A device is found under the app and environment that it registered last, and under no others.
func TestClaimsGoByTheLastRegistration(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	phone := r.phone("7", "a")
	r.register(t, phone)
	phone.App, phone.Environment = "other", "sandbox"
	r.register(t, phone)
	r.commit(t, of("7", ""))
	r.mark(t)
	for _, app := range []string{"app", "other"} {
		for _, environment := range []string{"production", "sandbox", ""} {
			got, err := r.store.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Environment: environment, Apps: []string{app}}, 10)
			want := app == "other" && environment == "sandbox"
			if err != nil || (len(got) == 1) != want {
				t.Errorf("%s %q: %+v, %v", app, environment, got, err)
			}
			if want && len(got) == 1 && (got[0].App != app || got[0].Environment != environment) {
				t.Errorf("%+v", got[0])
			}
		}
	}
}

// plan is a node of what EXPLAIN (ANALYZE, FORMAT JSON) prints. Its rows are those of one loop.
type plan struct {
	Node    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Rows    float64 `json:"Actual Rows"`
	Removed float64 `json:"Rows Removed by Filter"`
	Loops   float64 `json:"Actual Loops"`
	Plans   []plan
}

// read is how many rows of tables were read.
func (p *plan) read() float64 {
	n := 0.0
	if p.Table != "" && p.Node != "ModifyTable" {
		n = (p.Rows + p.Removed) * p.Loops
	}
	for i := range p.Plans {
		n += p.Plans[i].read()
	}
	return n
}
