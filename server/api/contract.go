package api

import (
	"crypto/sha256"
	_ "embed" // for the documents
	"encoding/hex"
	"net/http"
)

// The contract in writing: OpenAPI 3.1 and AsyncAPI 3.0.
var (
	//go:embed openapi.yaml
	openAPI []byte
	//go:embed asyncapi.yaml
	asyncAPI []byte
)

// document serves one of the two. They are no secret, so they may be kept.
func (a *API) document(body []byte) methods {
	sum := sha256.Sum256(body)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	serve := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		a.writeBody(w, r, "application/yaml", body)
	}
	return methods{http.MethodGet: serve, http.MethodHead: serve}
}
