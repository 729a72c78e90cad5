package provider

import (
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	accessTokenLife = time.Hour
	messagingScope  = "https://www.googleapis.com/auth/firebase.messaging"
	cloudScope      = "https://www.googleapis.com/auth/cloud-platform"
)

// oauth is Google's token endpoint for service accounts: RFC 7523.
type oauth struct {
	world    *world
	faults   *faults
	accounts []*FCMAccount
	uri      string

	mu     sync.Mutex
	tokens map[string]access
}

type access struct {
	project string
	expires time.Time // by the sender's time
}

func (o *oauth) token(w http.ResponseWriter, r *http.Request) {
	if f := o.faults.next(OAuth, ""); f != nil {
		o.world.log.add(Entry{Provider: OAuth, Event: EventFault, Reason: f.Kind})
		if f.Kind == FaultAnswer {
			f.wait(r.Context())
			o.refuse(w, f.Status, f.Reason, "A fault of the simulation")
			return
		}
		if playHTTP(w, r, f) {
			return
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		o.refuse(w, http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type")
		return
	}
	account, why := o.verify(r.PostFormValue("assertion"))
	if why != "" {
		o.refuse(w, http.StatusBadRequest, "invalid_grant", why)
		return
	}
	token := "ya29." + rand.Text()
	o.mu.Lock()
	o.tokens[token] = access{project: account.Project, expires: o.world.senderTime().Add(accessTokenLife)}
	o.mu.Unlock()
	o.world.log.add(Entry{Provider: OAuth, Event: EventAnswered, Status: http.StatusOK})
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "Bearer", "expires_in": int(accessTokenLife.Seconds()) - 1,
	})
}

func (o *oauth) refuse(w http.ResponseWriter, status int, code, why string) {
	o.world.log.add(Entry{Provider: OAuth, Event: EventAnswered, Status: status, Reason: code})
	writeJSON(w, status, map[string]string{"error": code, "error_description": why})
}

// verify checks a service account's assertion. The reason is empty if it is good.
func (o *oauth) verify(assertion string) (account *FCMAccount, why string) {
	var claims struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
	}
	now := o.world.senderTime()
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(o.uri), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithLeeway(time.Minute), jwt.WithTimeFunc(func() time.Time { return now }))
	_, err := parser.ParseWithClaims(assertion, &claims, func(*jwt.Token) (any, error) {
		for _, a := range o.accounts {
			if a.Email == claims.Issuer {
				account = a
				return a.public, nil
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	})
	switch {
	case err != nil && account == nil:
		return nil, "Invalid grant: account not found"
	case err != nil:
		return nil, "Invalid JWT: " + err.Error()
	case claims.ExpiresAt.After(now.Add(accessTokenLife + time.Minute)):
		return nil, "Invalid JWT: Token must be a short-lived token (60 minutes)"
	case !strings.Contains(claims.Scope, messagingScope) && !strings.Contains(claims.Scope, cloudScope):
		return nil, "Invalid scope"
	}
	return account, ""
}

// project is whose access token the header bears.
func (o *oauth) project(header string) (string, bool) {
	scheme, token, _ := strings.Cut(header, " ")
	o.mu.Lock()
	defer o.mu.Unlock()
	a, ok := o.tokens[token]
	return a.project, ok && strings.EqualFold(scheme, "bearer") && o.world.senderTime().Before(a.expires)
}
