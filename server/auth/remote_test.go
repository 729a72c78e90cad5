package auth_test

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

func TestRemoteVerifies(t *testing.T) {
	is := newIssuer(t)
	p := newProvider(set(jwkOf("rs", is.rsa.Public()), jwkOf("es", is.ec.Public(), "alg", nil, "use", nil), jwkOf("ed", is.ed.Public(), "use", nil, "key_ops", []string{"verify"})))
	f := fetchFrom(t, p, auth.Config{Keys: []auth.Key{parse(t, "hs", auth.HS256, secret)}, Issuer: "https://id.example"})
	f.fetches("ok", 1)
	for kid, alg := range map[string]string{"rs": auth.RS256, "es": auth.ES256, "ed": auth.EdDSA} {
		f.wants(alg, is.fresh(t, kid, alg), "")
		f.wants(alg+" without kid", is.fresh(t, "", alg), "")
	}
	static := sign(t, jwt.SigningMethodHS256, secret, map[string]any{"kid": "hs"}, jwt.MapClaims{"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
	f.wants("a configured key beside", static, "")
	// A public key is no secret, whatever the token says.
	public := publicPEM(t, is.rsa.Public())
	f.wants("HS256 by a fetched key", sign(t, jwt.SigningMethodHS256, public, map[string]any{"kid": "rs"}, nil), wire.TokenBad)
	f.wants("ES256 under an RSA kid", is.fresh(t, "rs", auth.ES256), wire.TokenBad)
	if f.count("nudge_jwks_keys", "") != 3 || f.count("nudge_jwks_fetched_timestamp_seconds", "") == 0 {
		t.Error("the metrics don't say so")
	}
	if log := f.log.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, "rs RS256") {
		t.Errorf("the log: %s", log)
	}
}

// What the operator configured can't be taken over by the provider.
func TestConfiguredKidStands(t *testing.T) {
	is, other := newIssuer(t), newIssuer(t)
	p := newProvider(set(jwkOf("main", other.ed.Public()), jwkOf("theirs", other.ec.Public())))
	f := fetchFrom(t, p, auth.Config{Keys: []auth.Key{parse(t, "main", auth.EdDSA, publicPEM(t, is.ed.Public()))}})
	f.fetches("ok", 1)
	f.wants("ours", is.fresh(t, "main", auth.EdDSA), "")
	f.wants("theirs under our kid", other.fresh(t, "main", auth.EdDSA), wire.TokenBad)
	f.wants("theirs under theirs", other.fresh(t, "theirs", auth.ES256), "")
}

// Whatever the provider answers, the last good set stays in force, one metric and one line say what is
// wrong, and a provider that has recovered is heard again.
func TestProviderIsWrong(t *testing.T) {
	is := newIssuer(t)
	good := set(jwkOf("rs", is.rsa.Public()))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	huge := strings.Repeat(" ", 10<<20)
	for name, tc := range map[string]struct {
		result  string
		answer  http.HandlerFunc
		network bool // takes a real one
	}{
		"an error":       {"status", status(500), false},
		"not found":      {"status", status(404), false},
		"not modified":   {"status", status(304), false}, // nothing was asked about
		"nothing":        {"not_a_set", text(""), false},
		"HTML":           {"not_a_set", text("<!doctype html><title>Down for maintenance</title>"), true},
		"torn JSON":      {"not_a_set", text(`{"keys":[{"kty":"RSA"`), false},
		"a list":         {"not_a_set", text(`[]`), false},
		"keys as text":   {"not_a_set", text(`{"keys":"none"}`), false},
		"a deep nest":    {"not_a_set", text(strings.Repeat("[", 200_000)), false},
		"10 MB":          {"too_large", text(huge), true},
		"a bomb":         {"too_large", bomb, true},
		"no keys":        {"no_usable_keys", text(`{"keys":[]}`), false},
		"an object":      {"no_usable_keys", text(`{}`), false},
		"null":           {"no_usable_keys", text(`null`), false},
		"secrets":        {"no_usable_keys", text(`{"keys":[{"kty":"oct","kid":"rs","alg":"HS256","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}`), false},
		"weak keys":      {"no_usable_keys", set(jwkOf("rs", weak.Public())), false},
		"other curves":   {"no_usable_keys", set(jwkOf("rs", p384.Public(), "alg", "ES384")), false},
		"for encryption": {"no_usable_keys", set(jwkOf("rs", is.rsa.Public(), "use", "enc")), false},
		"for signing":    {"no_usable_keys", set(jwkOf("rs", is.rsa.Public(), "key_ops", []string{"sign"})), false},
		"another alg":    {"no_usable_keys", set(jwkOf("rs", is.rsa.Public(), "alg", "RS512")), false},
		"broken off":     {"unreachable", brokenOff, true},
		"plain http":     {"unreachable", astray(good), false},
		"in circles":     {"unreachable", redirect("/keys"), true},
	} {
		t.Run(name, func(t *testing.T) {
			judge := func(t *testing.T, f *fetching, wait func(result string)) {
				wait(tc.result)
				token := is.fresh(t, "rs", auth.RS256, "exp", time.Now().Add(12*time.Hour).Unix())
				f.comesBack("before there is a key", token, 1000, 13_000)
				if err := f.verifier.Ready(); err == nil {
					t.Error("ready without a key")
				}
				if got := f.log.lines(slog.LevelWarn); len(got) != 1 || !strings.HasSuffix(got[0], tc.result) {
					t.Errorf("logged %q, want one line that says %s", got, tc.result)
				}
				f.provider.now(good)
				wait("ok")
				f.wants("recovered", token, "")
				if err := f.verifier.Ready(); err != nil {
					t.Error(err)
				}
				f.provider.now(tc.answer)
			}
			if tc.network {
				f := fetchFrom(t, newProvider(tc.answer), auth.Config{})
				judge(t, f, func(result string) { f.fetches(result, 1) })
				return
			}
			synctest.Test(t, func(t *testing.T) {
				p := newProvider(tc.answer)
				f := startFetching(t, p, auth.Config{}, inProcess(p))
				wait := func(result string) {
					time.Sleep(10 * time.Minute)
					if f.count("nudge_jwks_fetches_total", result) == 0 {
						t.Errorf("no fetch came to %s", result)
					}
				}
				judge(t, f, wait)
				wait(tc.result) // again, with a good set in force
				f.wants("by the last good set", is.fresh(t, "rs", auth.RS256), "")
				if got := f.log.lines(slog.LevelWarn); len(got) != 2 || !strings.Contains(got[1], "stay in force") {
					t.Errorf("logged %q, want a second line that says what stays", got)
				}
				f.stop()
			})
		})
	}
}

func brokenOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(`{"keys":[`))
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// astray sends to where the answer could be anybody's.
func astray(good http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Scheme == "http" {
			good(w, r)
			return
		}
		redirect("http://192.0.2.1/keys")(w, r)
	}
}

// One bad key costs itself alone.
func TestKeysAreJudgedEach(t *testing.T) {
	is, other := newIssuer(t), newIssuer(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := jwkOf("good", is.ec.Public())
	offCurve := jwkOf("off", is.ec.Public(), "y", good["x"])
	f := fetchFrom(t, newProvider(set(
		jwkOf("weak", weak.Public()), offCurve, jwkOf("enc", is.rsa.Public(), "use", "enc"), jwkOf("even", is.rsa.Public(), "e", "AQAA"),
		jwkOf("short", is.ed.Public(), "x", "AAAA"), jwkOf("unsaid", is.rsa.Public(), "n", nil), map[string]any{"kty": 7},
		jwkOf("ps", is.rsa.Public(), "alg", "PS256"), map[string]any{"kty": "oct", "k": encode(secret), "kid": "hs"},
		good, good, jwkOf("good", other.ec.Public()), jwkOf("good", is.ed.Public()),
	)), auth.Config{})
	f.fetches("ok", 1)
	f.wants("the good one", is.fresh(t, "good", auth.ES256), "")
	f.wants("of one kid, the key of its algorithm", is.fresh(t, "good", auth.EdDSA), "")
	f.wants("of two keys of one kid, the second", other.fresh(t, "good", auth.ES256), wire.TokenBad)
	for reason, n := range map[string]float64{"weak": 1, "malformed": 5, "use": 1, "unsupported": 2, "duplicate": 1} {
		if got := f.count("nudge_jwks_keys_ignored", reason); got != n {
			t.Errorf("%s: %v, want %v", reason, got, n)
		}
	}
	if got := f.log.lines(slog.LevelWarn); len(got) != 1 {
		t.Errorf("logged %q", got)
	}
}

func TestAlgorithmsNarrowFetchedKeys(t *testing.T) {
	is := newIssuer(t)
	server := httptest.NewServer(newProvider(set(jwkOf("rs", is.rsa.Public()), jwkOf("es", is.ec.Public()))))
	t.Cleanup(server.Close)
	f := startFetching(t, nil, auth.Config{}, auth.RemoteConfig{URL: server.URL, Algorithms: []string{auth.ES256}})
	f.fetches("ok", 1)
	f.wants("ES256", is.fresh(t, "es", auth.ES256), "")
	f.wants("RS256", is.fresh(t, "rs", auth.RS256), wire.TokenBad)
}

// A rotation: both keys for a while, then the new one alone. The old key's tokens end with it, also those
// that are known, and whoever they let in.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newIssuer(t), newIssuer(t)
		p := newProvider(set(jwkOf("1", old.ec.Public())))
		f := startFetching(t, p, auth.Config{}, inProcess(p))
		synctest.Wait()
		first := old.fresh(t, "1", auth.ES256, "exp", time.Now().Add(24*time.Hour).Unix())
		f.wants("the first key's", first, "")
		p.now(set(jwkOf("1", old.ec.Public()), jwkOf("2", next.ec.Public())))
		time.Sleep(auth.RefreshDefault)
		f.wants("the first key's, in the overlap", first, "")
		f.wants("the second's, in the overlap", next.fresh(t, "2", auth.ES256), "")
		id, err := f.verifier.Verify(t.Context(), first)
		if err != nil || f.verifier.Check(id) != nil {
			t.Fatal(err)
		}
		if len(f.changed) > 0 {
			t.Error("a change was told of, but no key went")
		}
		p.now(set(jwkOf("2", next.ec.Public())))
		time.Sleep(auth.RefreshDefault)
		if len(f.changed) != 1 {
			t.Error("nobody was told that a key went")
		}
		if err := f.verifier.Check(id); codeOf(err) != wire.TokenUnverifiable {
			t.Errorf("who came with the first key: %v", err)
		}
		f.wants("the first key's, until it is certain", first, wire.TokenUnverifiable)
		time.Sleep(auth.UnknownKidGap)
		f.wants("the first key's, at the end", first, wire.TokenBad)
		f.wants("an expired one of the first key", old.fresh(t, "1", auth.ES256, "iat", time.Now().Add(-2*time.Hour).Unix(), "exp", time.Now().Unix()), wire.TokenExpired)
		f.wants("the second key's", next.fresh(t, "2", auth.ES256), "")
		// The same kid with another key is another key.
		p.now(set(jwkOf("2", old.ec.Public())))
		second, err := f.verifier.Verify(t.Context(), next.fresh(t, "2", auth.ES256))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(auth.RefreshDefault)
		if f.verifier.Check(second) == nil {
			t.Error("a key was exchanged under its kid, and its tokens stayed")
		}
		f.stop()
	})
}

// inProcess serves requests without a network, so that synctest can keep the time.
func inProcess(h http.Handler) auth.RemoteConfig {
	return auth.RemoteConfig{URL: "https://id.example/keys", Transport: transport{h}}
}

type transport struct{ h http.Handler }

func (tr transport) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	tr.h.ServeHTTP(rec, r)
	if rec.Code == http.StatusTeapot {
		return nil, fmt.Errorf("no route to host")
	}
	return rec.Result(), nil
}

// A provider that gives no kids goes over from one key to the next: neither's tokens are ever bad.
func TestRotationWithoutKids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, next := newIssuer(t), newIssuer(t)
		p := newProvider(set(jwkOf("1", is.ec.Public())))
		f := startFetching(t, p, auth.Config{Issuer: "https://id.example"}, inProcess(p))
		synctest.Wait()
		f.wants("the only key", is.fresh(t, "", auth.ES256), "")
		p.now(set(jwkOf("2", next.ec.Public()), jwkOf("1", is.ec.Public())))
		time.Sleep(auth.UnknownKidGap)
		token := next.fresh(t, "", auth.ES256)
		f.comesBack("a key that is not here yet", token, 1000, 3000)
		synctest.Wait()
		f.wants("it came", token, "")
		f.wants("the other one of two", is.fresh(t, "", auth.ES256, "jti", "2"), "")
		id, err := f.verifier.Verify(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		p.now(set(jwkOf("1", is.ec.Public())))
		time.Sleep(2 * auth.RefreshDefault)
		synctest.Wait()
		if f.verifier.Check(id) == nil {
			t.Error("who was let in by a key that is gone stays")
		}
		f.stop()
	})
}

// An unknown kid is answered at once: try again while a fetch is due, and bad once it did not help.
// However many come, there are six fetches a minute.
func TestUnknownKid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, next := newIssuer(t), newIssuer(t)
		p := newProvider(set(jwkOf("1", is.ec.Public())))
		f := startFetching(t, p, auth.Config{Keys: []auth.Key{parse(t, "hs", auth.HS256, secret)}, Issuer: "https://id.example"}, inProcess(p))
		synctest.Wait()
		fetched := p.count()
		// What no key could save asks for no fetch. HS256 is of no fetched key.
		for _, header := range []map[string]any{nil, {"kid": "x"}} {
			claims := jwt.MapClaims{"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
			f.wants("HS256, forged", sign(t, jwt.SigningMethodHS256, []byte("another"), header, claims), wire.TokenBad)
		}
		f.wants("unknown and of another issuer", is.fresh(t, "x", auth.ES256, "iss", "https://evil.example"), wire.TokenBad)
		f.wants("unknown and expired", is.fresh(t, "x", auth.ES256, "exp", time.Now().Unix()), wire.TokenExpired)
		time.Sleep(auth.UnknownKidGap)
		if p.count() != fetched {
			t.Error("they made a fetch due")
		}

		unknown := next.fresh(t, "2", auth.ES256)
		f.comesBack("first seen", unknown, 1000, 3000)
		synctest.Wait() // the last fetch is long ago, so this one is at once
		if p.count() != fetched+1 {
			t.Fatal("no fetch")
		}
		f.wants("the fetch did not bring it", unknown, wire.TokenBad)
		f.wants("and it stays so", unknown, wire.TokenBad)

		// Somebody guessed the next kid before it was there; whoever comes with it then is not locked out.
		p.now(set(jwkOf("1", is.ec.Public()), jwkOf("2", next.ec.Public())))
		came := next.fresh(t, "2", auth.ES256, "jti", "another")
		f.comesBack("another token of the kid", came, 11_000, 13_000)
		time.Sleep(auth.UnknownKidGap)
		synctest.Wait()
		f.wants("it came", came, "")
		f.wants("even the one that was bad", unknown, "")

		// A flood.
		fetched = p.count()
		for n := range 600 {
			f.wants("flood", is.fresh(t, fmt.Sprint("x", n), auth.ES256), wire.TokenUnverifiable)
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.count() - fetched; n < 5 || n > 6 {
			t.Errorf("%d fetches in a minute", n)
		}
		f.stop()
	})
}

// What a cache answers for the provider, which it may have said before the token was made, damns no token.
func TestUnknownKidBehindACache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, next := newIssuer(t), newIssuer(t)
		old := set(jwkOf("1", is.ec.Public()))
		p := newProvider(old)
		f := startFetching(t, p, auth.Config{}, inProcess(p))
		time.Sleep(auth.UnknownKidGap)
		asked := make(chan string, 10)
		p.now(func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Header.Get("Cache-Control")
			w.Header().Set("Age", "15")
			old(w, r)
		})
		came := next.fresh(t, "2", auth.ES256)
		f.comesBack("first seen", came, 1000, 3000)
		synctest.Wait()
		if got := <-asked; got != "no-cache" {
			t.Errorf("Cache-Control %q", got)
		}
		f.comesBack("of what was said before it came", came, 11_000, 13_000)
		time.Sleep(2 * auth.UnknownKidGap)
		synctest.Wait()
		f.comesBack("still, ten seconds on", came, 1000, 3000)
		synctest.Wait()
		f.wants("of what was said after it came", came, wire.TokenBad)
	})
}

// A kid that is unknown while the provider is away is not bad: nobody knows.
func TestUnknownKidWhileProviderIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, next := newIssuer(t), newIssuer(t)
		p := newProvider(set(jwkOf("1", is.ec.Public())))
		f := startFetching(t, p, auth.Config{}, inProcess(p))
		synctest.Wait()
		p.now(status(http.StatusTeapot))
		unknown := next.fresh(t, "2", auth.ES256, "exp", time.Now().Add(48*time.Hour).Unix())
		known := is.fresh(t, "1", auth.ES256, "exp", time.Now().Add(48*time.Hour).Unix())
		before := p.count()
		for range 60 {
			f.wants("away", unknown, wire.TokenUnverifiable)
			f.wants("known", known, "")
			time.Sleep(time.Minute)
		}
		if n := p.count() - before; n > 150 {
			t.Errorf("%d tries in an hour", n)
		}
		if got := f.log.lines(slog.LevelWarn); len(got) != 1 {
			t.Errorf("logged %q", got)
		}
		// The last good set is in force for a day, and then nobody knows anything.
		time.Sleep(auth.StaleAfter - time.Hour - 10*time.Minute)
		f.wants("almost a day later", known, "")
		time.Sleep(10 * time.Minute)
		f.wants("a day later", known, wire.TokenUnverifiable)
		if f.verifier.Ready() == nil {
			t.Error("ready without a key in force")
		}
		p.now(set(jwkOf("1", is.ec.Public())))
		time.Sleep(time.Minute)
		f.wants("recovered", known, "")
		f.wants("recovered", unknown, wire.TokenBad)
		f.stop()
	})
}

// bomb is 1 MiB in a few kilobytes.
func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
}
