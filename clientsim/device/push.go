package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// Register tells the server where pushes reach this device: at the first launch, whenever the platform hands out
// another token, and after another user has signed in. It names the cursor that the device holds, so that whatever
// happened before the server knew the device is pushed too. A *StopError is as in Run; any other error can be tried
// again.
func (d *Device) Register(ctx context.Context, r wire.Registration) error {
	r.Cursor = d.cfg.State.Cursor()
	return d.send(ctx, http.MethodPut, "/v1/devices/"+url.PathEscape(d.cfg.ID), r)
}

// Woken is what an app does in the time that a background push gives it: it pulls, naming the push by the
// nudge id that it carried ("" if nothing did), and then says what it has saved, or the server would have to wake it
// again for it. It tries until it succeeds, the server stops the device (*StopError), or ctx ends.
func (d *Device) Woken(ctx context.Context, nudge string) error {
	wait := backoff{random: d.cfg.Random}
	for {
		err := d.catchUp(ctx, nudge)
		if err == nil {
			return nil
		}
		if _, stop := errors.AsType[*StopError](err); stop || ctx.Err() != nil {
			return err
		}
		var hint time.Duration
		if l, ok := errors.AsType[*lost](err); ok {
			hint = l.after
		}
		select {
		case <-d.cfg.After(wait.next(hint)):
		case <-ctx.Done():
			return err
		}
	}
}

// catchUp pulls until nothing is left, and acknowledges it.
func (d *Device) catchUp(ctx context.Context, nudge string) error {
	if _, err := d.pullHTTP(ctx, nudge); err != nil {
		return err
	}
	return d.send(ctx, http.MethodPost, "/v1/ack", struct {
		Cursor string `json:"cursor"`
	}{d.cfg.State.Cursor()})
}

// send makes a request with a JSON body whose answer matters by its status alone.
func (d *Device) send(ctx context.Context, method, path string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, d.cfg.URL+path, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := d.sign(ctx, req); err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := d.cfg.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return d.refusal(resp).verdict(d.cfg.State)
	}
	_, err = io.Copy(io.Discard, resp.Body) // so that the connection serves again
	return err
}

// sign says who asks.
func (d *Device) sign(ctx context.Context, req *http.Request) error {
	token, err := d.cfg.Token(ctx)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(wire.HeaderDevice, d.cfg.ID)
	return nil
}
