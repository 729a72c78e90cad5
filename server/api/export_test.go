package api

import (
	"time"

	"github.com/nudgesync/nudge/notify/hub"
)

// Decode is the frame decoder, for fuzzing.
var Decode = decode

// OpenAPI and AsyncAPI are the contract in writing.
var (
	OpenAPI  = openAPI
	AsyncAPI = asyncAPI
)

// Routes are the public listener's methods by path, besides health.
func (a *API) Routes() map[string][]string {
	out := map[string][]string{}
	for path, m := range a.routes() {
		for method := range m {
			out[path] = append(out[path], method)
		}
	}
	return out
}

// PullRates bound how often devices pull, for tests.
type PullRates struct{ *pullRates }

// NewPullRates makes them, of pulls a second.
func NewPullRates(device, user int) PullRates { return PullRates{newPullRates(device, user)} }

// Allow counts a pull.
func (r PullRates) Allow(user, device string, now time.Time) error {
	return r.allow(deviceKey{user, device}, now)
}

// Forget drops what was not used of late.
func (r PullRates) Forget(now time.Time) { r.forget(now) }

// Held is how many users and devices are remembered.
func (r PullRates) Held() (n int) {
	return held(r.users) + held(r.devices)
}

func held[K comparable](b *buckets[K]) (n int) {
	for i := range b.parts {
		b.parts[i].mu.Lock()
		n += len(b.parts[i].used)
		b.parts[i].mu.Unlock()
	}
	return n
}

// Rates are what the API holds its devices to.
func (a *API) Rates() PullRates { return PullRates{a.rates} }

// Herd knows how many pulls a node can serve, for tests.
type Herd struct{ *herd }

// Within is what sessions are told that hear with others.
func (a *API) Within(with hub.Crowd) time.Duration { return a.herd.within(time.Now(), with) }

// NewHerd makes one that knows of no database.
func NewHerd() Herd { return Herd{newHerd(nil)} }

// Pulled notes a pull from memory.
func (h Herd) Pulled(took time.Duration) { h.pulled(took) }

// Within is what a session is told that hears with others.
func (h Herd) Within(now time.Time, with hub.Crowd) time.Duration { return h.within(now, with) }

// Storm knows when many sessions have come or gone, for tests.
type Storm struct{ storm }

// Over is asked once a second.
func (s *Storm) Over(turnover, open int) bool { return s.over(turnover, open) }
