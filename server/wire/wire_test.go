package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

func TestEveryCodeHasItsProblem(t *testing.T) {
	codes := wire.Codes()
	if !slices.IsSorted(codes) || len(codes) < 20 {
		t.Errorf("codes: %v", codes)
	}
	for _, c := range codes {
		p := wire.NewProblem(c, "detail")
		if p.Status < 400 || p.Status > 599 || p.Title == "" || p.Title == string(c) || p.Hint == "" || p.Code != c ||
			p.Type != "https://nudgesync.dev/problems/"+string(c) {
			t.Errorf("%+v", p)
		}
	}
	if p := wire.NewProblem("unheard_of", ""); p.Status != 500 {
		t.Errorf("%+v", p)
	}
}

func TestProblem(t *testing.T) {
	p := wire.NewProblem(wire.Overloaded, "")
	later := p.After(1500 * time.Millisecond)
	if p.RetryAfterMS != 0 || later.RetryAfterMS != 1500 {
		t.Errorf("%+v, %+v", p, later)
	}
	var as *wire.Problem
	if err := fmt.Errorf("pull: %w", later); !errors.As(err, &as) || as != later {
		t.Errorf("%v", err)
	}
	b, err := json.Marshal(wire.NewProblem(wire.NotFound, ""))
	if want := `{"type":"https://nudgesync.dev/problems/not_found","title":"There is nothing here","status":404,"code":"not_found","hint":"Check method and path; the API is below /v1."}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}

// Whatever a socket is closed for, its reason names the cause first, says what to do, and fits a close
// frame (RFC 6455 §5.5: 125 bytes, two of which are the code).
func TestCloseReason(t *testing.T) {
	causes := []string{
		wire.CauseNotText, wire.CauseNotUTF8, wire.CauseHelloTimeout, wire.CauseTooSlow, wire.CauseMaxAge, wire.CauseReplaced,
	}
	for _, c := range wire.Codes() {
		causes = append(causes, string(c))
	}
	for _, c := range causes {
		reason := wire.CloseReason(c)
		if hint, ok := strings.CutPrefix(reason, c+": "); !ok || hint == "" || len(reason) > 123 || strings.Contains(reason, "retry_after_ms") {
			t.Errorf("%s: %q, %d bytes", c, reason, len(reason))
		}
	}
}

// A page inside a changes frame is flat: one decoder reads both.
func TestChangesFrameIsFlat(t *testing.T) {
	b, err := json.Marshal(wire.Changes{T: wire.TChanges, ID: 3, Page: wire.Page{Cursor: "c", Changes: []wire.Change{}}})
	if want := `{"t":"changes","id":3,"cursor":"c","has_more":false,"poll_after_s":null,"last_mutation":null,"changes":[]}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}
