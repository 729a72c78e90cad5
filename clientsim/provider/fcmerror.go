package provider

import (
	"encoding/json"
	"net/http"
	"time"
)

type fcmError struct {
	code   int
	status string
}

// fcmErrors are the codes of Firebase's "ErrorCode" table.
var fcmErrors = map[string]fcmError{
	"INVALID_ARGUMENT":       {400, "INVALID_ARGUMENT"},
	"UNREGISTERED":           {404, "NOT_FOUND"},
	"SENDER_ID_MISMATCH":     {403, "PERMISSION_DENIED"},
	"QUOTA_EXCEEDED":         {429, "RESOURCE_EXHAUSTED"},
	"UNAVAILABLE":            {503, "UNAVAILABLE"},
	"INTERNAL":               {500, "INTERNAL"},
	"THIRD_PARTY_AUTH_ERROR": {401, "UNAUTHENTICATED"},
}

// fcmAnswer is what FCM says to a message it does not take.
type fcmAnswer struct {
	fcmError
	message string
	details []map[string]any
	after   time.Duration // Retry-After
}

// fcmCode is an answer with an FcmError: about the message or its target.
func fcmCode(code, message string) *fcmAnswer {
	return &fcmAnswer{fcmError: fcmErrors[code], message: message, details: []map[string]any{{
		"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code,
	}}}
}

// fcmPlain is an answer without one: Google's front door refused the request.
func fcmPlain(code int, status, message string) *fcmAnswer {
	return &fcmAnswer{fcmError: fcmError{code: code, status: status}, message: message}
}

// fcmField is the form of 400 that names a field: the request is no message at all.
func fcmField(field, description string) *fcmAnswer {
	a := fcmPlain(400, "INVALID_ARGUMENT", "Invalid JSON payload received. "+description)
	a.details = []map[string]any{{
		"@type":           "type.googleapis.com/google.rpc.BadRequest",
		"fieldViolations": []map[string]string{{"field": field, "description": description}},
	}}
	return a
}

func fcmQuota(quota string, wait time.Duration) *fcmAnswer {
	a := fcmCode("QUOTA_EXCEEDED", "Quota exceeded: "+quota)
	a.details = append(a.details, map[string]any{
		"@type":      "type.googleapis.com/google.rpc.QuotaFailure",
		"violations": []map[string]string{{"subject": "device", "description": quota}},
	})
	a.after = wait
	return a
}

func (a *fcmAnswer) write(w http.ResponseWriter) {
	body := map[string]any{"code": a.code, "message": a.message, "status": a.status}
	if a.details != nil {
		body["details"] = a.details
	}
	if a.after > 0 {
		w.Header().Set("Retry-After", seconds(a.after))
	}
	writeJSON(w, a.code, map[string]any{"error": body})
}

// reason is the FcmError's code, or the status.
func (a *fcmAnswer) reason() string {
	for _, d := range a.details {
		if code, ok := d["errorCode"].(string); ok {
			return code
		}
	}
	return a.status
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went
}
