package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// hook lets a program beside the simulation do the app's work.
func (w *world) hook(address, phone string) (func(context.Context, string), error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("phone: wake_url: %w", err)
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, errors.New("phone: wake_url: not of loopback")
	}
	return func(ctx context.Context, nudge string) {
		if err := w.post(ctx, u.String(), map[string]string{"phone": phone, "nudge": nudge}); err != nil {
			w.logger.Warn("wake_url failed", "phone", phone, "error", err)
		}
	}, nil
}

func (w *world) post(ctx context.Context, address string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := w.hooks.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}
