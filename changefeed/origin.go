package changefeed

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"github.com/nudgesync/nudge/changefeed/change"
)

// signatureLen is that of a signature behind a device: a colon and HMAC-SHA256 in hexadecimal.
const signatureLen = 1 + 2*sha256.Size

// Why an origin was not believed. It then holds no nudge back, and that is all.
const (
	originMalformed = "malformed" // no id that a device can have
	originUnsigned  = "unsigned"  // Config.OriginSecret demands a signature
	originForged    = "forged"    // its signature is not that of this device in this transaction
)

// named takes up an origin message of the open transaction. content aliases the read buffer (P27).
func (s *session) named(content []byte) {
	device, refusal := readOrigin(content, s.xid, s.feed.cfg.OriginSecret)
	if refusal != "" {
		s.feed.cfg.Metrics.origins.WithLabelValues(refusal).Inc()
		return
	}
	if device != s.origin {
		s.origin = device
		s.origins++
	}
}

// readOrigin returns the device that a message names, or why it is not believed.
//
// Under a secret the content is "device:signature", where signature is HMAC-SHA256(secret, "xid:device") in
// hexadecimal and xid the transaction's id, the 32 bits of it that the WAL has. So whoever sees a signed
// message, in the WAL or among the statements of a server, can't use it: neither for another device nor in
// another transaction.
func readOrigin(content []byte, xid uint32, secret []byte) (device, refusal string) {
	if len(secret) > 0 {
		n := len(content) - signatureLen
		if n < 0 || content[n] != ':' {
			return "", originUnsigned
		}
		signature := make([]byte, sha256.Size)
		if _, err := hex.Decode(signature, content[n+1:]); err != nil {
			return "", originUnsigned
		}
		content = content[:n]
		mac := hmac.New(sha256.New, secret)
		mac.Write(strconv.AppendUint(nil, uint64(xid), 10)) // and so on: it never fails
		mac.Write([]byte{':'})
		mac.Write(content)
		if !hmac.Equal(signature, mac.Sum(nil)) {
			return "", originForged
		}
	}
	// The message is bytes, not text: the log's encoding may lack what they say, and the append would fail for ever.
	device = string(content)
	if !change.ValidDevice(device) {
		return "", originMalformed
	}
	return device, ""
}
