package provider

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Files are the files that a sender is pointed at, by their absolute paths.
type Files struct {
	Dir      string            `json:"dir"`
	CA       string            `json:"ca"`
	APNsKeys map[string]string `json:"apns_keys"`        // by key id
	Accounts map[string]string `json:"service_accounts"` // by project
	VAPID    string            `json:"vapid"`            // the pair, as JSON
	VAPIDKey string            `json:"vapid_key"`        // the private key alone
	TokenKey string            `json:"token_key"`        // what nudge may seal the phones' targets with: no secret, and always the same
}

// WriteFiles writes the certificate and the keys to a directory, which it makes if need be, for their owner's
// eyes only.
func (p *Providers) WriteFiles(dir string) (Files, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	files := Files{Dir: dir, APNsKeys: make(map[string]string), Accounts: make(map[string]string)}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		return path
	}
	files.CA = write("ca.pem", p.CA)
	for _, k := range p.APNsKeys {
		files.APNsKeys[k.KeyID] = write("AuthKey_"+k.KeyID+".p8", k.P8)
	}
	for _, a := range p.Accounts {
		files.Accounts[a.Project] = write("service-account-"+a.Project+".json", a.JSON)
	}
	pair, failed := json.Marshal(p.VAPID)
	if err == nil {
		err = failed
	}
	files.VAPID = write("vapid.json", pair)
	files.VAPIDKey = write("vapid.key", []byte(p.VAPID.Private))
	files.TokenKey = write("token.key", []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("t"), 32))))
	if err != nil {
		return Files{}, fmt.Errorf("providers: %w", err)
	}
	return files, nil
}

// PushSection is the part of nudge.yaml that has nudge push here, on APNs to phones of production. settings are lines
// that it has besides, such as "grace: 2s". The first project's apps are those of all teams, another's is one
// that is named after it.
func (p *Providers) PushSection(files Files, settings ...string) string {
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(p.WebPushURL, "https://")) // an address that we listen on
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("push:")
	for _, s := range settings {
		line("  %s", s)
	}
	line("  token_key_file: %q", files.TokenKey)
	line("  apns:")
	var apps []string
	for _, k := range p.APNsKeys {
		apps = append(apps, k.Topics...)
		line("    - {team: %q, key_id: %q, key_file: %q, topics: [%s], endpoint: %q, ca_file: %q}",
			k.Team, k.KeyID, files.APNsKeys[k.KeyID], strings.Join(k.Topics, ", "), p.APNsURL, files.CA)
	}
	line("  fcm:")
	for i, a := range p.Accounts {
		if i > 0 {
			apps = []string{a.Project}
		}
		line("    - {project: %q, credentials_file: %q, apps: [%s], endpoint: %q, ca_file: %q}",
			a.Project, files.Accounts[a.Project], strings.Join(apps, ", "), p.FCMURL, files.CA)
	}
	line("  webpush: {subject: \"mailto:ops@example.com\", vapid_key_file: %q, allow_hosts: [%q], ca_file: %q}",
		files.VAPIDKey, host, files.CA)
	return b.String()
}
