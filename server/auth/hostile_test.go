package auth_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// signed is a token of exactly this header and payload, with a good signature.
func signed(t *testing.T, header, payload string) string {
	t.Helper()
	segment := base64.RawURLEncoding.EncodeToString
	head := segment([]byte(header)) + "." + segment([]byte(payload))
	mac, err := jwt.SigningMethodHS256.Sign(head, secret)
	if err != nil {
		t.Fatal(err)
	}
	return head + "." + segment(mac)
}

// What no library would make, by somebody who can sign: each is answered by its code, and costs nothing
// but its own answer.
func TestHostileTokens(t *testing.T) {
	v := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "k", auth.HS256, secret)}, Audience: "app", DeviceClaim: "did"})
	const hs = `{"alg":"HS256"}`
	exp := now.Add(time.Hour).Unix()
	claims := func(more string) string { return fmt.Sprintf(`{"sub":"7","aud":"app","exp":%d%s}`, exp, more) }
	expiring := func(exp string) string { return `{"sub":"7","aud":"app","exp":` + exp + `}` }
	audience := func(aud string) string { return fmt.Sprintf(`{"sub":"7","exp":%d,"aud":%s}`, exp, aud) }
	deep := strings.Repeat("[", 2500) + strings.Repeat("]", 2500)
	many := `"x"` + strings.Repeat(`,"x"`, 1000)

	for name, tc := range map[string]struct {
		header, payload string
		code            wire.Code
	}{
		"as it should be":            {hs, claims(""), ""},
		"1 MB":                       {hs, claims(`,"x":"` + strings.Repeat("x", 1<<20) + `"`), wire.TokenBad},
		"1 MB of header":             {`{"alg":"HS256","x":"` + strings.Repeat("x", 1<<20) + `"}`, claims(""), wire.TokenBad},
		"a deep nest in the claims":  {hs, claims(`,"x":` + deep), ""},
		"a deep nest in the header":  {`{"alg":"HS256","x":` + deep + `}`, claims(""), ""},
		"a deep nest for a user":     {hs, fmt.Sprintf(`{"sub":%s,"aud":"app","exp":%d}`, deep, exp), wire.TokenBad},
		"a nest that is torn":        {hs, strings.Repeat(`{"a":`, 1000), wire.TokenBad},
		"a nest for a kid":           {`{"alg":"HS256","kid":` + deep + `}`, claims(""), wire.TokenBad},
		"a long kid":                 {`{"alg":"HS256","kid":"` + strings.Repeat("k", 256) + `"}`, claims(""), wire.TokenBad},
		"a kid for a file":           {`{"alg":"HS256","kid":"../../dev/null"}`, claims(""), wire.TokenBad},
		"its own key":                {`{"alg":"HS256","kid":"z","jwk":{"kty":"oct","k":"AAAA"}}`, claims(""), wire.TokenBad},
		"its own key's address":      {`{"alg":"HS256","kid":"z","jku":"https://evil.example/"}`, claims(""), wire.TokenBad},
		"an empty kid":               {`{"alg":"HS256","kid":""}`, claims(""), wire.TokenBad},
		"a null kid":                 {`{"alg":"HS256","kid":null}`, claims(""), wire.TokenBad},
		"alg none":                   {`{"alg":"none"}`, claims(""), wire.TokenBad},
		"alg in small letters":       {`{"alg":"hs256"}`, claims(""), wire.TokenBad},
		"alg twice":                  {`{"alg":"HS256","alg":"none"}`, claims(""), wire.TokenBad},
		"alg as a list":              {`{"alg":["HS256"]}`, claims(""), wire.TokenBad},
		"an empty crit":              {`{"alg":"HS256","crit":[]}`, claims(""), wire.TokenBad},
		"crit for what we do":        {`{"alg":"HS256","crit":["exp"],"exp":1}`, claims(""), wire.TokenBad},
		"a null crit":                {`{"alg":"HS256","crit":null}`, claims(""), wire.TokenBad},
		"a payload as it is":         {`{"alg":"HS256","crit":["b64"],"b64":false}`, claims(""), wire.TokenBad},
		"a token in a token":         {`{"alg":"HS256","cty":"JWT"}`, signed(t, hs, claims("")), wire.TokenBad},
		"base64 of base64":           {hs, base64.StdEncoding.EncodeToString([]byte(claims(""))), wire.TokenBad},
		"a list":                     {hs, "[" + claims("") + "]", wire.TokenBad},
		"two objects":                {hs, claims("") + claims(""), wire.TokenBad},
		"null":                       {hs, "null", wire.TokenBad},
		"a header that is a list":    {"[]", claims(""), wire.TokenBad},
		"exp past any number":        {hs, expiring("1e400"), wire.TokenBad},
		"exp past 64 bits":           {hs, expiring("1e300"), wire.TokenBad},
		"exp past a minute of 64":    {hs, expiring("9223372036854775807"), wire.TokenBad},
		"exp in milliseconds":        {hs, expiring(fmt.Sprint(exp * 1000)), wire.TokenBad},
		"exp at the end of time":     {hs, expiring("253402300799"), ""},
		"exp behind the end of time": {hs, expiring("253402300800"), wire.TokenBad},
		"exp below zero":             {hs, expiring("-1"), wire.TokenBad},
		"exp with a fraction":        {hs, expiring(fmt.Sprint(exp) + ".5"), ""},
		"exp in words":               {hs, expiring("true"), wire.TokenBad},
		"exp as text":                {hs, expiring(fmt.Sprintf(`"%d"`, exp)), wire.TokenBad},
		"NaN":                        {hs, expiring("NaN"), wire.TokenBad},
		"Infinity":                   {hs, expiring("Infinity"), wire.TokenBad},
		"exp twice, the last over":   {hs, claims(`,"exp":1`), wire.TokenExpired},
		"iat below zero":             {hs, claims(`,"iat":-1`), wire.TokenBad},
		"iat past 64 bits":           {hs, claims(`,"iat":1e300`), wire.TokenBad},
		"iat as a list":              {hs, claims(`,"iat":[1]`), wire.TokenBad},
		"iat in 1970":                {hs, claims(`,"iat":0`), ""},
		"nbf past 64 bits":           {hs, claims(`,"nbf":-1e300`), wire.TokenBad},
		"aud among several":          {hs, audience(`["a","app","b"]`), ""},
		"aud among a thousand":       {hs, audience(`[` + many + `,"app"]`), ""},
		"aud among none":             {hs, audience(`[]`), wire.TokenBad},
		"aud among numbers":          {hs, audience(`[1,2]`), wire.TokenBad},
		"aud in a list in a list":    {hs, audience(`[["app"]]`), wire.TokenBad},
		"aud as an object":           {hs, audience(`{"app":true}`), wire.TokenBad},
		"aud in part":                {hs, audience(`"app2"`), wire.TokenBad},
		"sub twice":                  {hs, claims(`,"sub":"7"`), ""},
		"sub twice, the last wrong":  {hs, claims(`,"sub":{}`), wire.TokenBad},
		"sub in capitals":            {hs, fmt.Sprintf(`{"SUB":"7","aud":"app","exp":%d}`, exp), wire.TokenBad},
		"jti as an object":           {hs, claims(`,"jti":{}`), wire.TokenBad},
		"a long jti":                 {hs, claims(`,"jti":"` + strings.Repeat("j", 256) + `"`), wire.TokenBad},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := v.Verify(t.Context(), signed(t, tc.header, tc.payload))
			if codeOf(err) != tc.code || err != nil && id != (auth.Identity{}) {
				t.Errorf("%+v, %v; want %q", id, err, tc.code)
			}
			if err == nil && (id.User != "7" || !id.Expires.After(now) || id.Expires.Year() > 9999) {
				t.Errorf("let in as %+v", id)
			}
		})
	}
}

// Whatever a provider publishes, what is taken of it are public keys that are strong enough, each for one
// algorithm that is allowed.
func FuzzParseSet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"},null,7,{"kty":"oct","k":"AA"}]}`))
	allowed := []string{auth.RS256, auth.ES256, auth.EdDSA}
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := auth.ParseSet(body, allowed)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys and %v", len(keys), err)
		}
		for _, k := range keys {
			if err := k.Check(); err != nil || !slices.Contains(allowed, k.Algorithm) || len(k.ID) > 255 {
				t.Fatalf("took %q %s: %v", k.ID, k.Algorithm, err)
			}
		}
		if len(keys) > 0 {
			remote, err := auth.New(auth.Config{Keys: keys[:1]})
			if err != nil || remote.Ready() != nil {
				t.Fatalf("a key that a verifier refuses: %v", err)
			}
		}
	})
}
