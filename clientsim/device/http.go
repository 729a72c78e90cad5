package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// PullHTTP runs the pull loop once over HTTP: for an app in the background that a push woke, and
// where no socket gets through. It is safe beside a session: whose page comes second has its answer
// refused (ErrMoved) and asks again. A *StopError is as in Run.
func (d *Device) PullHTTP(ctx context.Context) error {
	_, err := d.pullHTTP(ctx, "")
	return err
}

// pullHTTP names the nudge that it follows, "" for none. It returns when the server wants the next pull: its
// poll_after_s, or 0 for a nudge.
func (d *Device) pullHTTP(ctx context.Context, nudge string) (time.Duration, error) {
	wait := time.Duration(0)
	if d.wrote.Swap(false) {
		wait = comesRound
	}
	for amended := false; ; wait = 0 {
		since := d.cfg.State.Cursor()
		page, received, err := d.get(ctx, since, nudge, wait)
		if err != nil {
			refused, ok := errors.AsType[*refusal](err)
			if !ok {
				return 0, err
			}
			err = refused.verdict(d.cfg.State)
			if refused.amended && !amended {
				amended = true // once: a server that refuses an empty cursor too will not change
				continue
			}
			return 0, err
		}
		if page.Cursor == "" { // 304: up to date
			return pollAfter(page), nil
		}
		if err := d.save(since, page, received); err != nil && !errors.Is(err, ErrMoved) {
			return 0, err
		} else if err == nil && !page.HasMore {
			return pollAfter(page), nil
		}
	}
}

// poll pulls over HTTP for as long as the server says so: its operator has sent the sockets away. It never
// returns nil.
func (d *Device) poll(ctx context.Context) error {
	for {
		after, err := d.pullHTTP(ctx, "")
		if err != nil {
			return err
		}
		d.backoff.reset()
		if after == 0 {
			return errPollingOver
		}
		// A tenth more or less, so that a fleet that was told at once does not ask at once for ever.
		after = time.Duration(float64(after) * (0.9 + 0.2*d.cfg.Random()))
		select {
		case <-d.cfg.After(after):
		case <-d.want:
		case <-d.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errPollingOver = errors.New("the server wants sockets again")

func pollAfter(page *wire.Page) time.Duration {
	if page.PollAfterS == nil {
		return 0
	}
	return time.Duration(*page.PollAfterS) * time.Second
}

// get fetches one page; one without a cursor on 304. The server may keep it waiting for something new.
func (d *Device) get(ctx context.Context, since, nudge string, wait time.Duration) (*wire.Page, int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	query := url.Values{}
	if since != "" {
		query.Set("since", since)
	}
	if nudge != "" {
		query.Set("nudge", nudge)
	}
	if wait > 0 {
		query.Set("wait", wait.String())
	}
	if d.cfg.PageLimit > 0 {
		query.Set("limit", strconv.Itoa(d.cfg.PageLimit))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.cfg.URL+"/v1/changes?"+query.Encode(), http.NoBody)
	if err != nil {
		return nil, 0, fmt.Errorf("pull: %w", err)
	}
	if err := d.sign(ctx, req); err != nil {
		return nil, 0, err
	}
	if since != "" && !d.cfg.State.MidPull() {
		req.Header.Set("If-None-Match", `"`+since+`"`)
	}
	resp, err := d.cfg.HTTP.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("pull: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusNotModified:
		d.cfg.State.Refresh(since, resp.Header.Get(wire.HeaderCursor))
		page := &wire.Page{}
		if s, err := strconv.Atoi(resp.Header.Get(wire.HeaderPollAfter)); err == nil && s > 0 {
			page.PollAfterS = &s
		}
		return page, 0, nil
	case http.StatusOK:
	default:
		return nil, 0, d.refusal(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, 0, fmt.Errorf("pull: %w", err)
	}
	if len(body) > maxBody {
		return nil, 0, fmt.Errorf("pull: a page of more than %d bytes", maxBody)
	}
	var page wire.Page
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, 0, fmt.Errorf("pull: %w", err)
	}
	return &page, len(body), nil
}

// refusal is an HTTP answer that is none. It may carry a problem and a hint.
type refusal struct {
	status  int
	problem *wire.Problem // nil if the answer was not our server's
	after   time.Duration // retry_after_ms or Retry-After; 0: none
	amended bool          // the state was set right; the pull can be repeated at once
}

func (r *refusal) Error() string {
	if r.problem != nil {
		return fmt.Sprintf("HTTP %d: %v", r.status, r.problem)
	}
	return fmt.Sprintf("HTTP %d", r.status)
}

func (d *Device) refusal(resp *http.Response) *refusal {
	r := &refusal{status: resp.StatusCode}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		r.after = time.Duration(s) * time.Second
	}
	var p wire.Problem
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxClientFrame))
	if err == nil && json.Unmarshal(body, &p) == nil && p.Code != "" {
		r.problem = &p
		if p.RetryAfterMS > 0 {
			r.after = time.Duration(p.RetryAfterMS) * time.Millisecond
		}
	}
	return r
}

// verdict does what the problem asks for and says what follows: stop, or come back later.
func (r *refusal) verdict(state *State) error {
	if r.problem != nil {
		if code, ok := stops(r.problem.Code); ok {
			return &StopError{Code: code, Reason: string(r.problem.Code)}
		}
		r.amended = amend(state, r.problem.Code)
	}
	return &lost{err: r, after: r.after}
}
