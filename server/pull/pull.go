// Package pull answers a device: everything of its scopes after its cursor, or a reset followed by
// everything (I4).
package pull

import (
	"strconv"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Request is one pull.
type Request struct {
	User   string   // the token's user
	Device string   // the asking device
	Since  string   // its cursor, "" for none
	Limit  int      // rows a page at most; 0: the default
	Bytes  int      // bytes a page at most, near enough; 0: the default
	Tables []string // only these tables; empty: all. The cursor remembers them
	Woken  bool     // a push woke the device: before the database, others come first
}

// Answer is one page.
type Answer struct {
	Cursor  string // always fresh, never smaller than Since; Since itself if the device stands where it stood
	HasMore bool
	// Changes is the inside of the JSON array "changes": elements joined by commas.
	Changes      []byte
	Rows         int  // elements in Changes
	NothingNew   bool // Since was up to date and nothing came
	PollAfterS   *int
	LastMutation *int64
	// Acked is the position that Since proves to be saved on the device; zero if it proves none.
	Acked change.Position
	// Upto is the commit boundary up to which the device holds everything once it has applied the page;
	// zero while HasMore.
	Upto change.Position
	// Source is the dearest of what it took: "tail", which is memory alone, "log" or "snapshot".
	Source string
}

// Comparison says where a device's cursor stands against the head of its scopes.
type Comparison struct {
	Head   string // a cursor that may only be compared, never pulled from or acknowledged
	Behind bool   // there is something to pull
	Fresh  string // when not behind: the cursor to hold from now on
}

// AppendMembers appends the members of the page's JSON object, without its braces:
// "cursor":…,"has_more":…,"poll_after_s":…,"last_mutation":…,"changes":[…]. An HTTP body is that in
// braces; a changes frame puts "t" and "id" before it.
func (a *Answer) AppendMembers(dst []byte) []byte {
	dst = append(dst, `"cursor":"`...)
	dst = append(dst, a.Cursor...) // base64url needs no escaping
	dst = append(dst, `","has_more":`...)
	dst = strconv.AppendBool(dst, a.HasMore)
	dst = append(dst, `,"poll_after_s":`...)
	if a.PollAfterS == nil {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendInt(dst, int64(*a.PollAfterS), 10)
	}
	dst = append(dst, `,"last_mutation":`...)
	if a.LastMutation == nil {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendInt(dst, *a.LastMutation, 10)
	}
	dst = append(dst, `,"changes":[`...)
	dst = append(dst, a.Changes...)
	return append(dst, ']')
}

// Scopes are the scopes whose changes reach the user.
func Scopes(user string) []change.Scope { return []change.Scope{change.User(user)} }
