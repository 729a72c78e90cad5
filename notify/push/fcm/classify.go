package fcm

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"cloud.google.com/go/auth"

	"github.com/nudgesync/nudge/notify/push"
)

// Error codes of google.firebase.fcm.v1.FcmError.
const (
	unregistered     = "UNREGISTERED"
	invalidArgument  = "INVALID_ARGUMENT"
	senderIDMismatch = "SENDER_ID_MISMATCH"
	quotaExceeded    = "QUOTA_EXCEEDED"
	unavailable      = "UNAVAILABLE"
	internal         = "INTERNAL"
	thirdPartyAuth   = "THIRD_PARTY_AUTH_ERROR"
)

// classify says what Google's answer means ("ErrorCode" of the FCM reference). good is whether a push of the same form was
// accepted before.
func classify(got *exchange, good bool) push.Answer {
	code, google, device := fcmError(got.body)
	a := push.Answer{RetryAfter: got.retry, Reason: code}
	if code == "" {
		a.Reason = push.Status(got.status)
	}
	switch status := got.status; {
	case status == http.StatusNotFound && code == unregistered:
		a.Outcome = push.Disable
	case status == http.StatusForbidden && code == senderIDMismatch:
		a.Outcome, a.Doubt = push.Disable, true
		a.Hint = "the token is of another Firebase project: if there are many, the project or its apps are configured wrongly"
	case status == http.StatusBadRequest && code != "" && good:
		a.Outcome, a.Doubt = push.Disable, true
		a.Hint = "the token is not one of FCM's"
	case status == http.StatusBadRequest && google:
		a.Outcome, a.Hint = push.Fault, "Google refuses the request, and has taken none like it yet: is the token one of FCM's?"
	case status == http.StatusTooManyRequests && device:
		a.Outcome = push.Throttled
	case status == http.StatusTooManyRequests:
		a.Outcome = push.SlowDown
	case status == http.StatusUnauthorized, status == http.StatusForbidden, code == thirdPartyAuth:
		a.Outcome = push.Misconfigured
		a.Hint = "Google refuses the credentials: check credentials_file, the role of the service account and that the FCM API is enabled; for iOS the APNs key in Firebase's console"
	case status == http.StatusNotFound:
		a.Outcome = push.Misconfigured
		a.Hint = "there is no such project, or a proxy answered: check project and endpoint"
	case status >= 400 && status < 500 && google:
		a.Outcome, a.Hint = push.Fault, "Google refuses the request itself: please report this"
	default:
		a.Outcome = push.Retry
	}
	return a
}

// fcmError is the code of the FcmError among the details, "" if there is none that is known; google is whether it is an
// error of Google's at all, and device whether the quota that was exceeded is the device's own: one device that is
// written to too often must not slow down a project.
func fcmError(body []byte) (code string, google, device bool) {
	var e struct {
		Error *struct {
			Details []struct {
				Type       string `json:"@type"`
				Code       string `json:"errorCode"`
				Violations []struct {
					Subject string `json:"subject"`
				} `json:"violations"`
			} `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil || e.Error == nil {
		return "", false, false
	}
	for _, d := range e.Error.Details {
		switch d.Type {
		case "type.googleapis.com/google.firebase.fcm.v1.FcmError":
			switch d.Code {
			case unregistered, invalidArgument, senderIDMismatch, quotaExceeded, unavailable, internal, thirdPartyAuth:
				code = d.Code
			}
		case "type.googleapis.com/google.rpc.QuotaFailure":
			for _, v := range d.Violations {
				device = device || strings.Contains(strings.ToLower(v.Subject), "device")
			}
		}
	}
	return code, true, device
}

// broken is the answer when Google gave none, or no access token.
func broken(err error) push.Answer {
	if _, is := errors.AsType[*unauthenticated](err); !is {
		return push.Broken(err)
	}
	refused, is := errors.AsType[*auth.Error](err)
	switch {
	case is && refused.Response != nil && refused.Response.StatusCode < 500 && refused.Response.StatusCode != http.StatusTooManyRequests:
		return push.Answer{
			Outcome: push.Misconfigured, Reason: "oauth",
			Hint: "Google gives no access token: the service account's key was removed, the file is not its own, or this machine's clock is off",
		}
	case is:
		return push.Answer{Outcome: push.Retry, Reason: "oauth", Hint: "Google gives no access token at the moment"}
	}
	a := push.Broken(err)
	a.Hint = "no access token: " + a.Hint
	return a
}
