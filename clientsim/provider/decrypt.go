package provider

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// decrypt is the browser's side of RFC 8291: the one record of aes128gcm (RFC 8188) that a push may be.
func (t *issued) decrypt(body []byte) ([]byte, error) {
	const saltLen, headLen, keyLen = 16, 21, 65
	if len(body) < headLen+keyLen {
		return nil, errors.New("too short")
	}
	salt, size, idLen := body[:saltLen], binary.BigEndian.Uint32(body[saltLen:]), int(body[headLen-1])
	if idLen != keyLen {
		return nil, errors.New("keyid is not a public key")
	}
	senderKey, record := body[headLen:headLen+keyLen], body[headLen+keyLen:]
	if size < 18 || len(record) > int(size) {
		return nil, errors.New("more than one record")
	}
	sender, err := ecdh.P256().NewPublicKey(senderKey)
	if err != nil {
		return nil, fmt.Errorf("sender's key: %w", err)
	}
	secret, err := t.key.ECDH(sender)
	if err != nil {
		return nil, fmt.Errorf("shared secret: %w", err)
	}
	info := "WebPush: info\x00" + string(t.key.PublicKey().Bytes()) + string(senderKey)
	material, err := hkdf.Key(sha256.New, secret, t.auth, info, 32)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, material, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := hkdf.Key(sha256.New, material, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	text, err := aead.Open(nil, nonce, record, nil)
	if err != nil {
		return nil, errors.New("not for this subscription")
	}
	text = bytes.TrimRight(text, "\x00")
	if len(text) == 0 || text[len(text)-1] != 2 {
		return nil, errors.New("no end of the last record")
	}
	return text[:len(text)-1], nil
}
