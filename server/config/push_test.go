package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/server/config"
)

// material is what a push section refers to, of the right form.
type material struct{ p8, account, vapid, tokenKey string }

func newMaterial(t *testing.T, curve elliptic.Curve) material {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p8 := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	account, err := json.Marshal(map[string]string{"type": "service_account", "project_id": "demo", "private_key": p8, "client_email": "a@b"})
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	return material{
		p8: p8, account: string(account), vapid: base64.RawURLEncoding.EncodeToString(private.Bytes()),
		tokenKey: base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))),
	}
}

const pushYAML = `push:
  token_key_file: token.key
  apns:
    - {team: ABCDE12345, key_id: FGHIJ67890, key_file: apns.p8, topics: [com.example.app]}
  fcm:
    - {project: demo, credentials_file: account.json, apps: [com.example.app, com.example.other], workers: 4, rate: 100}
  webpush: {subject: 'mailto:a@b.example', vapid_key_file: vapid.key}
  alerts: {com.example.app: {title_loc_key: T, body_loc_key: B}}
`

// pushFile writes pushYAML, changed by replace, and the files that it names.
func pushFile(t *testing.T, m material, replace ...string) string {
	t.Helper()
	text := strings.NewReplacer(replace...).Replace(pushYAML)
	path := write(t, "nudge.yaml", minimal+text)
	dir := filepath.Dir(path)
	for name, content := range map[string]string{"token.key": m.tokenKey, "apns.p8": m.p8, "account.json": m.account, "vapid.key": m.vapid} {
		put(t, filepath.Join(dir, name), content+"\n")
	}
	return path
}

func TestPush(t *testing.T) {
	m := newMaterial(t, elliptic.P256())
	m.tokenKey = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("n", 32))) + "\n" + m.tokenKey
	cfg, warnings, err := config.Load(config.Source{Path: pushFile(t, m)})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	p := &cfg.Push
	if keys := p.TokenKeys(); len(keys) != 2 || string(keys[0]) != strings.Repeat("n", 32) || string(keys[1]) != strings.Repeat("k", 32) {
		t.Errorf("token keys %q", keys)
	}
	if !p.On() || string(p.APNs[0].Key) != strings.TrimRight(m.p8, "\n") || string(p.FCM[0].Credentials) != m.account || string(p.WebPush.VAPIDKey) != m.vapid {
		t.Error("files were not read")
	}
	for _, tc := range []struct {
		road, app string
		want      bool
	}{
		{config.RoadAPNs, "com.example.app", true},
		{config.RoadAPNs, "com.example.other", false},
		{config.RoadFCM, "com.example.other", true},
		{config.RoadFCM, "com.example.none", false},
		{config.RoadWebPush, "any", true},
		{"none", "com.example.app", false},
	} {
		if got := p.Reaches(tc.road, tc.app); got != tc.want {
			t.Errorf("Reaches(%s, %s) is %v", tc.road, tc.app, got)
		}
	}
	if shown := cfg.String(); strings.Contains(shown, m.vapid) || strings.Contains(shown, "PRIVATE KEY") || strings.Contains(shown, "service_account") {
		t.Errorf("String shows a key:\n%s", shown)
	}
	if config.Default().Push.On() {
		t.Error("pushing is on by default")
	}
}

func TestPushDefects(t *testing.T) {
	good, other := newMaterial(t, elliptic.P256()), newMaterial(t, elliptic.P384())
	for name, tc := range map[string]struct {
		replace []string
		change  func(*material)
		code    config.Code
		line    int
		key     string
		hint    string
	}{
		"no token key": {replace: []string{"  token_key_file: token.key\n", ""}, code: config.Missing, line: 5, key: "push.token_key", hint: "openssl rand"},
		"short token key": {
			change: func(m *material) { m.tokenKey = "c2hvcnQ=" }, code: config.Invalid, line: 6, key: "push.token_key", hint: "openssl rand",
		},
		"a second token key that is none": {change: func(m *material) { m.tokenKey += "\nx" }, code: config.Invalid, line: 6, key: "push.token_key"},
		"no key file":                     {replace: []string{"apns.p8", "gone.p8"}, code: config.Unreadable, line: 8, key: "push.apns[0].key_file", hint: "make it"},
		"a key file that is not one":      {change: func(m *material) { m.p8 = "hello" }, code: config.Invalid, line: 8, key: "push.apns[0].key"},
		"a key of another curve":          {change: func(m *material) { m.p8 = other.p8 }, code: config.Invalid, line: 8, key: "push.apns[0].key"},
		"no key":                          {replace: []string{", key_file: apns.p8", ""}, code: config.Missing, line: 8, key: "push.apns[0].key", hint: ".p8"},
		"team":                            {replace: []string{"ABCDE12345", "abc"}, code: config.Invalid, line: 8, key: "push.apns[0].team", hint: "Team ID"},
		"no topics":                       {replace: []string{", topics: [com.example.app]", ""}, code: config.Missing, line: 8, key: "push.apns[0].topics"},
		"a doubled app":                   {replace: []string{"com.example.other", "com.example.app"}, code: config.Invalid, line: 10, key: "push.fcm[0].apps[1]", hint: "one place"},
		"a doubled app of two teams": {
			replace: []string{"  fcm:", "    - {team: ABCDE12345, key_id: FGHIJ67890, key_file: apns.p8, topics: [com.example.app]}\n  fcm:"},
			code:    config.Invalid, line: 9, key: "push.apns[1].topics[0]", hint: "one place",
		},
		"an app with a blank":        {replace: []string{"com.example.other", "'com example'"}, code: config.Invalid, line: 10, key: "push.fcm[0].apps[1]"},
		"another project's account":  {replace: []string{"project: demo", "project: prod"}, code: config.Invalid, line: 10, key: "push.fcm[0].credentials"},
		"an account that is no JSON": {change: func(m *material) { m.account = "<html>" }, code: config.Invalid, line: 10, key: "push.fcm[0].credentials"},
		"no authentication abroad": {
			replace: []string{"credentials_file: account.json", "without_authentication: true, endpoint: 'https://fcm.example'"},
			code:    config.Invalid, line: 10, key: "push.fcm[0].without_authentication",
		},
		"too many workers":              {replace: []string{"workers: 4", "workers: 4000"}, code: config.Invalid, line: 10, key: "push.fcm[0].workers"},
		"a rate of nothing":             {replace: []string{"rate: 100", "rate: -1"}, code: config.Invalid, line: 10, key: "push.fcm[0].rate"},
		"an unknown key":                {replace: []string{"rate: 100", "rates: 1"}, code: config.UnknownKey, line: 10, key: "push.fcm[0].rates", hint: `did you mean "rate"?`},
		"a plain endpoint":              {replace: []string{"rate: 100", "endpoint: 'http://fcm.example'"}, code: config.Invalid, line: 10, key: "push.fcm[0].endpoint"},
		"a file of certificates":        {replace: []string{"rate: 100", "ca_file: vapid.key"}, code: config.Invalid, line: 10, key: "push.fcm[0].ca_file"},
		"subject":                       {replace: []string{"mailto:a@b.example", "a@b.example"}, code: config.Invalid, line: 11, key: "push.webpush.subject", hint: "mailto:"},
		"no subject":                    {replace: []string{"subject: 'mailto:a@b.example', ", ""}, code: config.Missing, line: 11, key: "push.webpush.subject", hint: "mailto:"},
		"no VAPID key":                  {replace: []string{", vapid_key_file: vapid.key", ""}, code: config.Missing, line: 11, key: "push.webpush.vapid_key"},
		"a VAPID key of another curve":  {change: func(m *material) { m.vapid = other.vapid }, code: config.Invalid, line: 11, key: "push.webpush.vapid_key"},
		"an alert of an app not pushed": {replace: []string{"alerts: {com.example.app", "alerts: {com.example.ap"}, code: config.Invalid, line: 12, key: "push.alerts.com.example.ap", hint: `did you mean "com.example.app"?`},
		"an alert without text":         {replace: []string{", body_loc_key: B", ""}, code: config.Missing, line: 12, key: "push.alerts.com.example.app.body_loc_key"},
		"truth":                         {replace: []string{"rate: 100", "without_authentication: perhaps"}, code: config.Invalid, line: 10, key: "push.fcm[0].without_authentication"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			if tc.change != nil {
				tc.change(&m)
			}
			got := defects(t, config.Source{Path: pushFile(t, m, tc.replace...)})
			if len(got) != 1 {
				t.Fatalf("%d defects, not one: %v", len(got), got)
			}
			e := got[0]
			if e.Code != tc.code || e.Line != tc.line || e.Key != tc.key || !strings.Contains(e.Hint, tc.hint) {
				t.Errorf("got %s line %d key %q hint %q: %v", e.Code, e.Line, e.Key, e.Hint, e)
			}
			for _, secret := range []string{m.p8, m.vapid, m.account, m.tokenKey} {
				if strings.Contains(e.Error()+e.Excerpt+e.Hint, secret) {
					t.Errorf("a secret is shown: %v\n%s", e, e.Excerpt)
				}
			}
		})
	}
}
