package apns

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sideshow/apns2"

	"github.com/nudgesync/nudge/notify/push"
)

// classify says what Apple's answer means ("Handling notification responses from APNs"). It goes by the reason
// first, since one status has several.
func (s *Sender) classify(got *exchange) push.Answer {
	a := push.Answer{ID: got.id, Reason: known(got), RetryAfter: got.retry}
	switch a.Reason {
	case apns2.ReasonUnregistered, expiredToken:
		a.Outcome = push.Disable
		if got.body.Timestamp > 0 {
			a.Gone = time.UnixMilli(got.body.Timestamp)
		}
	case apns2.ReasonBadDeviceToken:
		a.Outcome, a.Doubt = push.Disable, true
		a.Hint = "if there are many, this sender or the apps' registrations name the wrong environment (sandbox for development builds)"
	case apns2.ReasonDeviceTokenNotForTopic, apns2.ReasonTopicDisallowed:
		a.Outcome, a.Doubt = push.Quarantine, true
		a.Hint = "the token is of another app: compare the bundle id that devices register with the topics of this team"
	case apns2.ReasonExpiredProviderToken:
		a.Outcome = push.Retry
		if !s.team.expired(got.bearer) {
			a.Outcome, a.Hint = push.Misconfigured, "Apple finds a token expired that was signed a moment ago: check this machine's clock"
		}
	case apns2.ReasonTooManyProviderTokenUpdates:
		s.team.block()
		a.Outcome, a.Hint = push.Retry, "another process signs tokens for this team: use a key of its own for it"
	case apns2.ReasonTooManyRequests:
		a.Outcome = push.Throttled
	default:
		a.Outcome, a.Hint = byStatus(got)
	}
	if off := time.Since(got.date).Round(time.Minute); a.Outcome == push.Misconfigured && !got.date.IsZero() && off.Abs() > time.Minute {
		a.Hint = fmt.Sprintf("this machine's clock is off by %v from Apple's", off)
	}
	return a
}

// byStatus judges what has no reason of its own.
func byStatus(got *exchange) (push.Outcome, string) {
	switch status := got.status; {
	case status == http.StatusOK && got.empty:
		return push.Accepted, ""
	case status == http.StatusOK || got.body.Reason == "":
		return push.Retry, "not an answer of Apple's: is there a proxy in between?"
	case status == http.StatusForbidden:
		return push.Misconfigured, "Apple refuses the provider token: check team, key_id and the key file, and that the key is for this environment and not revoked"
	case status == http.StatusTooManyRequests:
		return push.Throttled, ""
	case status >= 400 && status < 500:
		return push.Fault, "Apple refuses the request itself: please report this"
	default:
		return push.Retry, ""
	}
}

// Apple's reasons that the SDK does not know.
const (
	expiredToken          = "ExpiredToken"
	environmentKeyMissing = "BadEnvironmentKeyInToken"
	keyIDMissing          = "BadEnvironmentKeyIdInToken"
	unrelatedKey          = "UnrelatedKeyIdInToken"
)

// known is the reason, if it is one of Apple's; else a word for the status: it is a metric's label.
func known(got *exchange) string {
	if got.status == http.StatusOK {
		if got.empty {
			return "ok"
		}
		return "garbage"
	}
	switch r := got.body.Reason; r {
	case apns2.ReasonBadCollapseID, apns2.ReasonBadDeviceToken, apns2.ReasonBadExpirationDate, apns2.ReasonBadMessageID,
		apns2.ReasonBadPriority, apns2.ReasonBadTopic, apns2.ReasonDeviceTokenNotForTopic, apns2.ReasonDuplicateHeaders,
		apns2.ReasonIdleTimeout, apns2.ReasonInvalidPushType, apns2.ReasonMissingDeviceToken, apns2.ReasonMissingTopic,
		apns2.ReasonPayloadEmpty, apns2.ReasonTopicDisallowed, apns2.ReasonBadCertificate, apns2.ReasonBadCertificateEnvironment,
		apns2.ReasonExpiredProviderToken, apns2.ReasonForbidden, apns2.ReasonInvalidProviderToken, apns2.ReasonMissingProviderToken,
		apns2.ReasonBadPath, apns2.ReasonMethodNotAllowed, apns2.ReasonUnregistered, apns2.ReasonPayloadTooLarge,
		apns2.ReasonTooManyProviderTokenUpdates, apns2.ReasonTooManyRequests, apns2.ReasonInternalServerError,
		apns2.ReasonServiceUnavailable, apns2.ReasonShutdown, expiredToken, environmentKeyMissing, keyIDMissing, unrelatedKey:
		return r
	}
	return push.Status(got.status)
}
