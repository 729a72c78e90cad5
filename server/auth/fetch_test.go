package auth_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// Cache-Control is respected within bounds, ETag always.
func TestFetchingIsPolite(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                         auth.RefreshDefault,
		"public, max-age=600":      10 * time.Minute,
		"max-age=0":                auth.RefreshMin,
		"no-store":                 auth.RefreshMin,
		"No-Cache, max-age=600":    auth.RefreshMin,
		"max-age=86400, immutable": auth.RefreshMax,
		"max-age=-5":               auth.RefreshDefault,
		"max-age=99999999999999":   auth.RefreshDefault,
		`max-age="600"`:            10 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			is := newIssuer(t)
			body := set(jwkOf("1", is.ec.Public()))
			p := newProvider(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", header)
				w.Header().Set("ETag", `"v1"`)
				if r.Header.Get("If-None-Match") == `"v1"` {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				body(w, r)
			})
			f := startFetching(t, p, auth.Config{}, inProcess(p))
			synctest.Wait()
			time.Sleep(5 * want)
			f.stop()
			for n := range p.asked[:len(p.asked)-1] {
				if gap := p.asked[n+1].Sub(p.asked[n]); gap < want*9/10 || gap > want {
					t.Errorf("%q: %v between two fetches, want %v or a little less", header, gap, want)
				}
			}
			if n := f.count("nudge_jwks_fetches_total", "not_modified"); n != float64(len(p.asked)-1) || n < 4 {
				t.Errorf("%q: %v of %d were 304", header, n, len(p.asked))
			}
			f.wants("by the set that was never sent again", is.fresh(t, "1", auth.ES256), "")
		})
	}
}

// An answer that dribbles, or never comes, is given up, and nobody waits for it meanwhile.
func TestProviderIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := newIssuer(t)
		rt := &hanging{release: make(chan struct{})}
		f := startFetching(t, newProvider(nil), auth.Config{}, auth.RemoteConfig{URL: "https://id.example/keys", Transport: rt})
		synctest.Wait()
		began := time.Now()
		f.wants("while it hangs", is.fresh(t, "1", auth.ES256), wire.TokenUnverifiable)
		if time.Since(began) > 0 {
			t.Error("a token waited for the provider")
		}
		time.Sleep(11 * time.Second)
		if f.count("nudge_jwks_fetches_total", "unreachable") == 0 {
			t.Error("it was not given up")
		}
		f.stop()
	})
}

type hanging struct{ release chan struct{} }

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://id.example/keys": true, "http://127.0.0.1:8080/keys": true, "http://[::1]/keys": true, "http://localhost/keys": true,
		"http://id.example/keys": false, "http://10.0.0.1/": false, "http://localhost.example/": false, "http://127.0.0.1.example/": false,
		"ftp://id.example/": false, "//id.example/keys": false, "https://": false, "https://:443/": false, "": false,
		"https://user:password@id.example/": false, "id.example": false, "https://id.example/%zz": false,
	} {
		if err := auth.CheckURL(url); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
		if _, err := auth.NewRemote(auth.RemoteConfig{URL: url}); (err == nil) != ok {
			t.Errorf("a Remote of %q: %v", url, err)
		}
	}
	if _, err := auth.NewRemote(auth.RemoteConfig{URL: "https://id.example", Algorithms: []string{auth.HS256}}); err == nil {
		t.Error("fetched keys for HS256")
	}
}
