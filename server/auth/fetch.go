package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	fetchTimeout = 10 * time.Second // from the dial to the last byte
	maxSet       = 512 << 10        // bytes of a JWK Set; real ones have a few thousand
	maxRedirects = 3
)

// What comes of a fetch. They are labels of a metric.
const (
	resultOK          = "ok"
	resultUnchanged   = "not_modified"
	resultUnreachable = "unreachable"
	resultStatus      = "status"
	resultTooLarge    = "too_large"
	resultNotASet     = "not_a_set"
	resultNoKeys      = "no_usable_keys"
)

// fetched is what a good fetch brought.
type fetched struct {
	result  string // resultOK or resultUnchanged
	keys    []Key  // with resultOK
	ignored []ignoredKey
	etag    string
	fresh   time.Duration
	age     time.Duration // in caches on the way (RFC 9111 §5.1)
}

// fetchError is an answer that is no good.
type fetchError struct {
	result string
	err    error
}

func (e *fetchError) Error() string { return e.err.Error() }

func (e *fetchError) Unwrap() error { return e.err }

// fetch asks once, the provider itself and no cache if past is set. Whatever is not a JWK Set with a usable key is an error, whatever its status says: a
// maintenance page, or a set that was emptied by mistake, takes no key out of force.
func (r *Remote) fetch(ctx context.Context, past bool) (fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.cfg.URL, nil)
	if err != nil {
		return fetched{}, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "nudge")
	if past {
		req.Header.Set("Cache-Control", "no-cache") // RFC 9111 §5.2.1.4
	}
	if r.etag != "" {
		req.Header.Set("If-None-Match", r.etag)
	}
	res, err := r.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return fetched{}, err
	}
	defer func() { _ = res.Body.Close() }()
	out := fetched{result: resultOK, etag: res.Header.Get("ETag"), fresh: freshFor(res.Header), age: ageOf(res.Header)}
	switch {
	case res.StatusCode == http.StatusNotModified && r.etag != "":
		out.result, out.etag = resultUnchanged, r.etag
		return out, nil
	case res.StatusCode != http.StatusOK:
		return fetched{}, &fetchError{resultStatus, fmt.Errorf("the provider answers %d", res.StatusCode)}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxSet+1))
	if err != nil {
		return fetched{}, err
	}
	if len(body) > maxSet {
		return fetched{}, &fetchError{resultTooLarge, fmt.Errorf("the answer has more than %d bytes", maxSet)}
	}
	out.keys, out.ignored, err = parseSet(body, r.algorithms)
	switch {
	case errors.Is(err, errNoUsableKey):
		return fetched{}, &fetchError{resultNoKeys, fmt.Errorf("%w (it has %d others)", err, len(out.ignored))}
	case err != nil:
		return fetched{}, &fetchError{resultNotASet, err}
	}
	return out, nil
}

// checkRedirect follows a few, and none to where CheckURL would not have us begin.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("a redirect away from https")
	}
	if err := CheckURL(req.URL.String()); err != nil {
		return fmt.Errorf("a redirect: %w", err)
	}
	return nil
}

// freshFor is how long an answer need not be fetched again (RFC 9111 §4.2), within our bounds.
func freshFor(h http.Header) time.Duration {
	fresh := RefreshDefault
	for part := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(part)), "=")
		switch name {
		case "no-store", "no-cache":
			return RefreshMin
		case "max-age":
			if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				fresh = time.Duration(s)*time.Second - ageOf(h)
			}
		}
	}
	return min(max(fresh, RefreshMin), RefreshMax)
}

// ageOf is how long an answer lay in caches on its way; 0 without one.
func ageOf(h http.Header) time.Duration {
	s, err := strconv.ParseUint(h.Get("Age"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(s) * time.Second
}
