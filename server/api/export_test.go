package api

// Decode is the frame decoder, for fuzzing.
var Decode = decode

// OpenAPI and AsyncAPI are the contract in writing.
var (
	OpenAPI  = openAPI
	AsyncAPI = asyncAPI
)

// Routes are the public listener's methods by path, besides health.
func (a *API) Routes() map[string][]string {
	out := map[string][]string{}
	for path, m := range a.routes() {
		for method := range m {
			out[path] = append(out[path], method)
		}
	}
	return out
}
