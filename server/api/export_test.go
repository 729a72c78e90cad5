package api

import "time"

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
