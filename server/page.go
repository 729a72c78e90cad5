package main

import (
	"net/http"
	"strings"
)

// withPage puts a page beside the API.
func withPage(apiHandler, page http.Handler) http.Handler {
	if page == nil {
		return apiHandler
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/") || r.URL.Path == "/livez" || r.URL.Path == "/readyz" {
			apiHandler.ServeHTTP(w, r)
			return
		}
		page.ServeHTTP(w, r)
	})
}
