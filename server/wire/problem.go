package wire

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// Code is the stable name of what went wrong, for programs. Problems and error frames carry it.
type Code string

// Every code a client can meet.
const (
	CursorMalformed   Code = "cursor_malformed"
	RequestInvalid    Code = "request_invalid"
	TokenMissing      Code = "token_missing"
	TokenBad          Code = "token_bad"
	TokenExpired      Code = "token_expired"
	TokenRevoked      Code = "token_revoked"
	DeviceMismatch    Code = "device_mismatch"
	TableForbidden    Code = "table_forbidden"
	OriginForbidden   Code = "origin_forbidden"
	NotFound          Code = "not_found"
	TableUnknown      Code = "table_unknown"
	PushUnconfigured  Code = "push_unconfigured"
	CursorForeign     Code = "cursor_foreign"
	MutationGap       Code = "mutation_gap"
	MutationReused    Code = "mutation_reused"
	TooLarge          Code = "too_large"
	ProtocolOld       Code = "protocol_old"
	RateLimited       Code = "rate_limited"
	Overloaded        Code = "overloaded"
	Draining          Code = "draining"
	Starting          Code = "starting"
	DatabaseAway      Code = "database_away"
	TokenUnverifiable Code = "token_unverifiable"
	Polling           Code = "polling"
	Internal          Code = "internal"
)

// kind is what every problem of one code has in common.
type kind struct {
	status int
	title  string
	hint   string
}

var kinds = map[Code]kind{
	CursorMalformed:   {400, "The cursor is not one of ours", "Send a cursor exactly as it was received, or none."},
	RequestInvalid:    {400, "The request is not valid", "The detail says what to mend."},
	TokenMissing:      {401, "A token is needed", "Send Authorization: Bearer …, or the token in hello."},
	TokenBad:          {401, "The token is not accepted", "Sign in again."},
	TokenExpired:      {401, "The token has expired", "Fetch a fresh token and try again."},
	TokenRevoked:      {403, "The token was revoked", "Sign in again."},
	DeviceMismatch:    {403, "The token belongs to another device", "Send the device id that the token was made for."},
	TableForbidden:    {403, "The table is not open to devices", "Leave it out of the request, or open it in nudge.yaml."},
	OriginForbidden:   {403, "This origin is not allowed", "List it under listen.origins."},
	NotFound:          {404, "There is nothing here", "Check method and path; the API is below /v1."},
	TableUnknown:      {404, "The table is not configured", "Ask for tables that nudge.yaml names, as schema.name."},
	PushUnconfigured:  {404, "Nothing pushes to this app", "Go on without push; an operator adds the app under push in nudge.yaml."},
	CursorForeign:     {409, "The cursor belongs to another user", "Erase the local rows and pull without a cursor."},
	MutationGap:       {409, "A mutation id is missing", "Send the expected id first."},
	MutationReused:    {409, "A known mutation id came with other content", "Give every mutation an id of its own."},
	TooLarge:          {413, "The request is too large", "Send less at once."},
	ProtocolOld:       {426, "This protocol version is no longer spoken", "Update the app."},
	RateLimited:       {429, "Too many requests from this client", "Wait for retry_after_ms."},
	Overloaded:        {503, "The service is busy", "Wait for retry_after_ms."},
	Draining:          {503, "This node is going away", "Reconnect; another node answers."},
	Starting:          {503, "The service is starting", "Wait for retry_after_ms."},
	DatabaseAway:      {503, "The database does not answer", "Wait for retry_after_ms."},
	TokenUnverifiable: {503, "The token can't be verified right now", "Keep the token and try again."},
	Polling:           {503, "Devices are asked to poll for now", "Pull over HTTP, and again after poll_after_s, until a page says null."},
	Internal:          {500, "Something went wrong on our side", "Try again later; nothing is wrong with the request."},
}

// Codes lists every code in alphabetical order, for documentation and its test.
func Codes() []Code { return slices.Sorted(maps.Keys(kinds)) }

// Problem is an RFC 9457 problem detail, and the error type of everything a client can cause or meet.
type Problem struct {
	Type         string `json:"type"`
	Title        string `json:"title"`
	Status       int    `json:"status"`
	Detail       string `json:"detail,omitempty"`
	Code         Code   `json:"code"`
	Hint         string `json:"hint,omitempty"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

// NewProblem makes the problem of a code. detail says what happened this time; it never carries SQL,
// keys or tokens.
func NewProblem(code Code, detail string) *Problem {
	k, ok := kinds[code]
	if !ok {
		k = kind{status: 500, title: string(code)}
	}
	return &Problem{
		Type:   "https://nudgesync.dev/problems/" + string(code),
		Title:  k.title,
		Status: k.status,
		Detail: detail,
		Code:   code,
		Hint:   k.hint,
	}
}

// After returns p with a time to wait before the next try.
func (p *Problem) After(d time.Duration) *Problem {
	q := *p
	q.RetryAfterMS = d.Milliseconds()
	return &q
}

// AfterAbout is After with jitter: d, or up to half as much again, so that those who were refused together do not
// come back together.
func (p *Problem) AfterAbout(d time.Duration) *Problem {
	return p.After(d + time.Duration(rand.Int64N(int64(d)/2+1)))
}

// Error makes a problem an error.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return string(p.Code) + ": " + p.Title
	}
	return string(p.Code) + ": " + p.Detail
}
