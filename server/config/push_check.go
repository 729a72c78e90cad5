package config

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// tokenKeySize is that of AES-256, in bytes.
const tokenKeySize = 32

// maxApp is the length of an app's name, in bytes: Apple's and Google's own bounds are below.
const maxApp = 255

// appleID is a team's or a key's id, as Apple gives it out.
var appleID = regexp.MustCompile(`^[A-Z0-9]{10}$`)

// readPushSecrets fills those of the push section, and completes names of files beside it.
func (l *loader) readPushSecrets(p *Push) {
	l.secret("push.token_key", &p.TokenKey, &p.TokenKeyFile)
	l.secret("push.webpush.vapid_key", &p.WebPush.VAPIDKey, &p.WebPush.VAPIDKeyFile)
	p.WebPush.CAFile = l.beside("push.webpush.ca_file", p.WebPush.CAFile)
	for i := range p.APNs {
		a, path := &p.APNs[i], fmt.Sprintf("push.apns[%d]", i)
		l.secret(path+".key", &a.Key, &a.KeyFile)
		a.CAFile = l.beside(path+".ca_file", a.CAFile)
	}
	for i := range p.FCM {
		f, path := &p.FCM[i], fmt.Sprintf("push.fcm[%d]", i)
		l.secret(path+".credentials", &f.Credentials, &f.CredentialsFile)
		f.CAFile = l.beside(path+".ca_file", f.CAFile)
	}
}

func (l *loader) push(p *Push) {
	if p.Grace <= 0 {
		l.invalid("push.grace", "", "push.grace has to be more than nothing")
	}
	for path, d := range map[string]time.Duration{"apns": p.Budget.APNs, "fcm": p.Budget.FCM, "webpush": p.Budget.WebPush} {
		if d <= 0 {
			l.invalid("push.budget."+path, "", "push.budget.%s has to be more than nothing", path)
		}
	}
	const oneKey = "openssl rand -base64 32 makes one; to change it, put the new one in a line before the old one"
	switch {
	case p.TokenKey == unknownSecret:
	case p.TokenKey != "" && p.TokenKeys() == nil:
		l.invalid("push.token_key", oneKey, "push.token_key is not %d bytes in base64, or several of them in a line each", tokenKeySize)
	case p.TokenKey == "" && p.On():
		l.missing("push.token_key", "it seals the devices' tokens in the database: "+oneKey)
	}
	apns, fcm := owners{}, owners{}
	for i, a := range p.APNs {
		l.apns(fmt.Sprintf("push.apns[%d]", i), a, apns)
	}
	for i, f := range p.FCM {
		l.fcm(fmt.Sprintf("push.fcm[%d]", i), f, fcm)
	}
	l.webPush(&p.WebPush)
	for _, app := range sortedKeys(p.Alerts) {
		path := join("push.alerts", app)
		known := slices.Concat(sortedKeys(apns), sortedKeys(fcm))
		if !slices.Contains(known, app) {
			hint := "alerts are for the apps under push.apns and push.fcm"
			if near := nearest(app, known); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			l.invalid(path, hint, "%s: %q is not an app that is pushed to", path, app)
		}
		if p.Alerts[app].BodyLocKey == "" {
			l.missing(path+".body_loc_key", "a key of the app's own localised texts: nothing that is shown comes from here")
		}
	}
}

// owners are apps, and where each was named first.
type owners map[string]string

// apps holds the names of a provider's apps against each other, and against those of the providers before.
func (l *loader) apps(path string, names []string, of owners, example string) {
	if len(names) == 0 {
		l.missing(path, "the apps that it pushes to: ["+example+"]")
	}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch first, taken := of[name]; {
		case name == "" || len(name) > maxApp || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
			l.invalid(at, "such as "+example, "%s: %q is not an app's name", at, name)
		case taken:
			l.invalid(at, "keep it in one place", "%s: %s has the app %q already", at, first, name)
		default:
			of[name] = at
		}
	}
}

func (l *loader) apns(path string, a APNs, of owners) {
	for _, id := range []struct{ key, value, hint string }{
		{"team", a.Team, "the ten characters behind Team ID at developer.apple.com, Membership"},
		{"key_id", a.KeyID, "the ten characters behind Key ID at developer.apple.com, Keys"},
	} {
		switch {
		case id.value == "":
			l.missing(path+"."+id.key, id.hint)
		case !appleID.MatchString(id.value):
			l.invalid(path+"."+id.key, id.hint, "%s.%s: %q is not an id of Apple's", path, id.key, id.value)
		}
	}
	l.key(path+".key", a.Key, "the .p8 file that Apple gave out with key_id, or key_file", checkP8)
	l.apps(path+".topics", a.Topics, of, "com.example.app")
	l.sender(path, a.Workers, a.Endpoint, a.CAFile)
}

func (l *loader) fcm(path string, f FCM, of owners) {
	if f.Project == "" {
		l.missing(path+".project", "the Firebase project's id")
	}
	switch {
	case f.WithoutAuthentication && (f.Endpoint == "" || !onThisMachine(f.Endpoint)):
		l.invalid(path+".without_authentication", "leave it out, and name credentials_file", "%s.without_authentication is for an endpoint on this machine alone", path)
	case f.WithoutAuthentication && f.Credentials != "":
		l.invalid(path+".without_authentication", "keep one of them", "%s has credentials, and is without authentication", path)
	case !f.WithoutAuthentication:
		l.key(path+".credentials", f.Credentials, "the service account's JSON file, or credentials_file", func(s Secret) error { return checkAccount(s, f.Project) })
	}
	l.apps(path+".apps", f.Apps, of, "com.example.app")
	if f.Rate != 0 {
		l.between(path+".rate", int64(f.Rate), 1, 100_000)
	}
	l.sender(path, f.Workers, f.Endpoint, f.CAFile)
}

func (l *loader) webPush(w *WebPush) {
	const path = "push.webpush"
	if !w.On() {
		if w.Workers != 0 || len(w.AllowHosts) > 0 || w.CAFile != "" {
			l.missing(path+".subject", "where a push service reaches you: mailto:ops@example.com")
		}
		return
	}
	u, err := url.Parse(w.Subject)
	switch {
	case w.Subject == "":
		l.missing(path+".subject", "where a push service reaches you: mailto:ops@example.com")
	case err != nil || u.Scheme != "mailto" && u.Scheme != "https" || u.Opaque == "" && u.Host == "":
		l.invalid(path+".subject", "mailto:ops@example.com, or an https address", "%s.subject: %q is neither mail address nor page", path, w.Subject)
	}
	l.key(path+".vapid_key", w.VAPIDKey, "the VAPID private key, or vapid_key_file", checkVAPID)
	for i, h := range w.AllowHosts {
		at := fmt.Sprintf("%s.allow_hosts[%d]", path, i)
		if h == "" || strings.ContainsAny(h, "/*@ ") {
			l.invalid(at, "a host's name or address: push.internal", "%s: %q is not a host", at, h)
		}
	}
	l.sender(path, w.Workers, "", w.CAFile)
}

// key holds a secret against check, whose error doesn't repeat it.
func (l *loader) key(path string, value Secret, hint string, check func(Secret) error) {
	switch value {
	case unknownSecret:
	case "":
		l.missing(path, hint)
	default:
		if err := check(value); err != nil {
			l.invalid(path, hint, "%s: %v", path, err)
		}
	}
}

// sender holds what all providers have against their bounds.
func (l *loader) sender(path string, workers int, endpoint, ca string) {
	if workers != 0 {
		l.between(path+".workers", int64(workers), 1, 1000)
	}
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !onThisMachine(endpoint)) {
			l.invalid(path+".endpoint", "https://host:port; leave it out for the provider's own", "%s.endpoint is not an https address", path)
		}
	}
	if ca == "" {
		return
	}
	pemText, err := os.ReadFile(ca)
	switch {
	case err != nil:
		l.addKey(path+".ca_file", &Error{Code: Unreadable, Message: fmt.Sprintf("%s.ca_file: %s: %s", path, ca, unreadable(ca, err).Message)})
	case !x509.NewCertPool().AppendCertsFromPEM(pemText):
		l.invalid(path+".ca_file", "", "%s.ca_file: %s holds no certificate in PEM", path, ca)
	}
}

// onThisMachine says whether a URL's host is a loopback address.
func onThisMachine(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func checkP8(s Secret) error {
	block, _ := pem.Decode([]byte(s))
	if block == nil {
		return errors.New("it is not a .p8 file, which begins with -----BEGIN PRIVATE KEY-----")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return errors.New("it holds no P-256 private key, which Apple's are")
	}
	return nil
}

func checkAccount(s Secret, project string) error {
	var account struct {
		Type    string `json:"type"`
		Project string `json:"project_id"`
		Key     string `json:"private_key"`
		Email   string `json:"client_email"`
	}
	err := json.Unmarshal([]byte(s), &account)
	switch {
	case err != nil:
		return errors.New("it is not JSON")
	case account.Type != "service_account" || account.Email == "":
		return errors.New("it is not a service account's")
	case project != "" && account.Project != project:
		return fmt.Errorf("it belongs to project %q, not to %q", account.Project, project)
	}
	if block, _ := pem.Decode([]byte(account.Key)); block == nil {
		return errors.New("its private_key is none")
	}
	return nil
}

func checkVAPID(s Secret) error {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(s), "="))
	if err == nil {
		_, err = ecdh.P256().NewPrivateKey(raw)
	}
	if err != nil {
		return errors.New("it is not a P-256 private key, 32 bytes in base64url")
	}
	return nil
}
