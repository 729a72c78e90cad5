package site

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// Device is one of a user's, that holds everything up to its cursor.
type Device struct {
	User   int
	ID     string
	Token  string
	Cursor string
}

// Request is the device's pull in HTTP/1.1: with its cursor as validator, as one that polls does, or as since.
func (d Device) Request(validate bool) string {
	path, match := "/v1/changes?since="+d.Cursor, ""
	if validate {
		path, match = "/v1/changes", "If-None-Match: \""+d.Cursor+"\"\r\n"
	}
	return "GET " + path + " HTTP/1.1\r\nHost: nudge.example\r\nAuthorization: Bearer " + d.Token + "\r\n" +
		wire.HeaderDevice + ": " + d.ID + "\r\n" + match + "\r\n"
}

// starting is how many devices receive everything at once: as many pages as nudge reads at a time.
const starting = 4

// Devices lets users' devices receive everything: all of a user's get the cursor of the first.
func (n *Node) Devices(ctx context.Context, users, each int) ([]Device, error) {
	devices := make([]Device, users*each)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: starting}}
	defer client.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(starting)
	for u := range users {
		g.Go(func() error {
			// Spread out: whoever walks through the list comes back to a user as late as can be.
			for i := range each {
				d := &devices[i*users+u]
				*d = Device{User: u + 1, ID: "phone-" + strconv.Itoa(i)}
				var err error
				if d.Token, err = n.site.token(d.User, d.ID); err != nil {
					return err
				}
			}
			cursor, err := n.receive(ctx, client, devices[u])
			for i := range each {
				devices[i*users+u].Cursor = cursor
			}
			return err
		})
	}
	return devices, g.Wait()
}

func (s *Site) token(user int, device string) (string, error) {
	now := time.Now()
	return auth.Mint(s.key, auth.Claims{
		Issuer: "bench", Audience: "bench", Issued: now, Expires: now.Add(6 * time.Hour),
		Named: map[string]string{"sub": strconv.Itoa(user), "did": device},
	})
}

// receive is the client's loop. It returns the cursor.
func (n *Node) receive(ctx context.Context, client *http.Client, d Device) (string, error) {
	for {
		page, retry, err := n.Pull(ctx, client, d)
		switch {
		case err != nil:
			return "", err
		case retry > 0:
			select {
			case <-time.After(retry):
			case <-ctx.Done():
				return "", ctx.Err()
			}
			continue
		}
		d.Cursor = page.Cursor
		if !page.HasMore {
			return page.Cursor, nil
		}
	}
}

// Pull pulls one page. If the node has no time now, it returns when to ask again.
func (n *Node) Pull(ctx context.Context, client *http.Client, d Device) (_ *wire.Page, retry time.Duration, err error) {
	a, err := n.Ask(ctx, client, d, false)
	if err != nil {
		return nil, 0, err
	}
	switch a.Status {
	case http.StatusOK:
		page := new(wire.Page)
		return page, 0, json.Unmarshal(a.Body, page)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		seconds, err := strconv.Atoi(a.Header.Get("Retry-After"))
		return nil, max(time.Duration(seconds)*time.Second, 100*time.Millisecond), err
	}
	return nil, 0, fmt.Errorf("pull of user %d: %d: %.200s", d.User, a.Status, a.Body)
}

// Answer is a node's answer to a pull, as it came.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Ask asks for what a device lacks: with its cursor as validator, as one that polls does, or as since.
func (n *Node) Ask(ctx context.Context, client *http.Client, d Device, validate bool) (Answer, error) {
	url := "http://" + n.Public + "/v1/changes"
	if d.Cursor != "" && !validate {
		url += "?since=" + d.Cursor
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+d.Token)
	req.Header.Set(wire.HeaderDevice, d.ID)
	if validate {
		req.Header.Set("If-None-Match", `"`+d.Cursor+`"`)
	}
	res, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return Answer{res.StatusCode, res.Header, body}, err
}

// Await pulls as a device until it is told of this many changes.
func (n *Node) Await(ctx context.Context, d Device, changes int) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		page, _, err := n.Pull(ctx, http.DefaultClient, d)
		if err != nil {
			return err
		}
		if page != nil && len(page.Changes) >= changes {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
