package provider

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
)

// APNsKey is what Apple gives a team: a signing key and the apps that it may push to.
type APNsKey struct {
	Team   string   `json:"team"`
	KeyID  string   `json:"key_id"`
	Topics []string `json:"topics"` // bundle ids
	P8     []byte   `json:"-"`      // the .p8 file: a PKCS #8 private key as PEM

	public *ecdsa.PublicKey
}

// FCMAccount is what Google gives a project: a service account and the apps registered in the project.
type FCMAccount struct {
	Project string `json:"project"`
	Email   string `json:"email"`
	JSON    []byte `json:"-"` // the service account's file

	public *rsa.PublicKey
}

// VAPID is a sender's own key pair for Web Push, base64url without padding.
type VAPID struct {
	Public  string `json:"public"`
	Private string `json:"private"`
}

func newAPNsKey(team Team) (*APNsKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of team %s: %w", team.ID, err)
	}
	p8, err := pkcs8(key)
	if err != nil {
		return nil, fmt.Errorf("key of team %s: %w", team.ID, err)
	}
	return &APNsKey{Team: team.ID, KeyID: team.KeyID, Topics: team.Topics, P8: p8, public: &key.PublicKey}, nil
}

func newFCMAccount(project, tokenURI string) (*FCMAccount, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("key of project %s: %w", project, err)
	}
	private, err := pkcs8(key)
	if err != nil {
		return nil, fmt.Errorf("key of project %s: %w", project, err)
	}
	email := "sender@" + project + ".iam.gserviceaccount.com"
	file, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": project, "private_key_id": "key-" + project,
		"private_key": string(private), "client_email": email, "client_id": "1", "token_uri": tokenURI,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("account of project %s: %w", project, err)
	}
	return &FCMAccount{Project: project, Email: email, JSON: file, public: &key.PublicKey}, nil
}

func newVAPID() (VAPID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return VAPID{}, fmt.Errorf("VAPID key: %w", err)
	}
	pair, err := key.ECDH()
	if err != nil {
		return VAPID{}, fmt.Errorf("VAPID key: %w", err)
	}
	return VAPID{
		Public:  base64.RawURLEncoding.EncodeToString(pair.PublicKey().Bytes()),
		Private: base64.RawURLEncoding.EncodeToString(pair.Bytes()),
	}, nil
}

func pkcs8(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
