package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// contract holds what the server says against the documents it serves. Schemas of OpenAPI 3.1 and AsyncAPI
// 3.0 are JSON Schema, so a validator of that is all it takes.
type contract struct {
	openapi, asyncapi node
	mu                sync.Mutex // a compiler is for one at a time
	compiler          *jsonschema.Compiler
}

// node is a place in a document.
type node map[string]any

func (n node) at(path ...string) node {
	for _, p := range path {
		next, _ := n[p].(map[string]any)
		n = next
	}
	return n
}

var theContract = sync.OnceValue(func() *contract {
	c := &contract{compiler: jsonschema.NewCompiler()}
	for name, doc := range map[string]struct {
		text []byte
		into *node
	}{"openapi.yaml": {api.OpenAPI, &c.openapi}, "asyncapi.yaml": {api.AsyncAPI, &c.asyncapi}} {
		text, err := yaml.YAMLToJSON(doc.text)
		if err != nil {
			panic(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			panic(err)
		}
		if err := c.compiler.AddResource("http://nudge.test/"+name, v); err != nil {
			panic(err)
		}
		*doc.into, _ = v.(map[string]any)
	}
	return c
})

// valid holds a JSON text against the schema at a place such as "openapi.yaml#/components/schemas/Page".
func (c *contract) valid(place string, text []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	schema, err := c.compiler.Compile("http://nudge.test/" + place)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// escape makes a path one token of a JSON pointer in a fragment.
func escape(token string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
}

// response finds what is documented for an answer, and its place.
func (c *contract) response(r *http.Request, status int) (found node, place string, codes []any) {
	code := fmt.Sprint(status)
	path := r.URL.Path
	if strings.HasPrefix(path, "/v1/devices/") {
		path = "/v1/devices/{id}"
	}
	operation := []string{"paths", path, strings.ToLower(r.Method)}
	if r.Method == http.MethodHead {
		operation[2] = "get"
	}
	for _, of := range [][]string{operation, {"x-any-path"}} {
		o := c.openapi.at(of...)
		if found = o.at("responses", code); found == nil {
			continue
		}
		codes, _ = o.at("x-codes")[code].([]any)
		place = "openapi.yaml#"
		for _, p := range append(slices.Clone(of), "responses", code) {
			place += "/" + escape(p)
		}
		if ref, ok := found["$ref"].(string); ok {
			place = "openapi.yaml" + ref
			found = c.openapi.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		return found, place, codes
	}
	return nil, "", nil
}

// check holds an answer against the document: its status, headers, problem code and body.
func (c *contract) check(t testing.TB, r *http.Request, res *http.Response, body string) {
	t.Helper()
	what := fmt.Sprintf("%s %s: %d", r.Method, r.URL.Path, res.StatusCode)
	response, place, codes := c.response(r, res.StatusCode)
	if response == nil {
		t.Errorf("%s is not documented: %s", what, body)
		return
	}
	for name, values := range res.Header {
		schema := response.at("headers", name)
		at := place + "/headers/" + name
		for documented := range response.at("headers") { // the document spells names as people do
			if strings.EqualFold(documented, name) {
				schema, at = response.at("headers", documented), place+"/headers/"+documented
			}
		}
		if schema == nil {
			schema, at = c.openapi.at("x-any-path", "headers", name), "openapi.yaml#/x-any-path/headers/"+name
		}
		if schema == nil {
			t.Errorf("%s: header %s is not documented", what, name)
			continue
		}
		if ref, ok := schema["$ref"].(string); ok {
			at = "openapi.yaml" + ref
		}
		for _, v := range values {
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.valid(at+"/schema", text); err != nil {
				t.Errorf("%s: header %s: %v", what, name, err)
			}
		}
	}
	if _, documented := response["content"]; !documented || r.Method == http.MethodHead {
		if body != "" && res.StatusCode < 400 {
			t.Errorf("%s: a body that is not documented: %s", what, body)
		}
		return
	}
	mediaType := res.Header.Get("Content-Type")
	if response.at("content", mediaType) == nil {
		t.Errorf("%s: content type %q is not documented", what, mediaType)
		return
	}
	if !strings.HasSuffix(mediaType, "json") {
		return
	}
	if err := c.valid(place+"/content/"+escape(mediaType)+"/schema", []byte(body)); err != nil {
		t.Errorf("%s %s: %v", what, body, err)
	}
	if mediaType == "application/problem+json" {
		var p wire.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || !slices.Contains(codes, any(string(p.Code))) {
			t.Errorf("%s: code %s is not documented (%v)", what, p.Code, err)
		}
	}
}

// frame holds a server's frame against the document of its channel.
func (c *contract) frame(t testing.TB, channel, typ string, text []byte) {
	t.Helper()
	if c.asyncapi.at("channels", channel, "messages", typ) == nil {
		t.Errorf("%s: frame %s is not documented", channel, typ)
		return
	}
	if err := c.valid("asyncapi.yaml#/components/messages/"+typ+"/payload", text); err != nil {
		t.Errorf("%s: %s: %v", channel, text, err)
	}
}

// closed holds a close against the document of its channel.
func (c *contract) closed(t testing.TB, channel string, code int, cause string) {
	t.Helper()
	causes, _ := c.asyncapi.at("channels", channel, "x-close-codes")[fmt.Sprint(code)].([]any)
	if !slices.Contains(causes, any(cause)) {
		t.Errorf("%s: close %d for %s is not documented", channel, code, cause)
	}
}

// recording is a transport that checks every answer on its way.
type recording struct {
	http.RoundTripper
	t testing.TB
}

func (r recording) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.RoundTripper.RoundTrip(req)
	if err != nil {
		return res, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols || res.Header.Get("Content-Type") == "text/event-stream" {
		theContract().check(r.t, req, res, "")
		return res, nil
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return nil, err
	}
	theContract().check(r.t, req, res, decoded(r.t, res.Header.Get("Content-Encoding"), string(body)))
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// Every route, code, frame and close code is documented, and nothing else.
func TestContractIsWhole(t *testing.T) {
	c, w := theContract(), tcp(t)
	routes := w.api.Routes()
	for path, methods := range routes {
		for _, m := range methods {
			if m != http.MethodHead && c.openapi.at("paths", path, strings.ToLower(m)) == nil {
				t.Errorf("%s %s is not documented", m, path)
			}
		}
	}
	documented := map[string]bool{}
	for path, item := range c.openapi.at("paths") {
		if routes[path] == nil && !strings.HasPrefix(path, "/v1/admin/") && path != "/livez" && path != "/readyz" {
			t.Errorf("%s is documented and not there", path)
		}
		for _, op := range item.(map[string]any) {
			if o, ok := op.(map[string]any); ok {
				for status, codes := range node(o).at("x-codes") {
					if node(o).at("responses", status) == nil {
						t.Errorf("%s: x-codes of %s, which is no answer", path, status)
					}
					for _, code := range codes.([]any) {
						documented[code.(string)] = true
					}
				}
			}
		}
	}
	for _, codes := range c.openapi.at("x-any-path", "x-codes") {
		for _, code := range codes.([]any) {
			documented[code.(string)] = true
		}
	}
	for _, codes := range c.asyncapi.at("channels", "socket", "x-close-codes") {
		for _, cause := range codes.([]any) {
			documented[cause.(string)] = true
		}
	}
	var known []string
	for _, code := range wire.Codes() {
		known = append(known, string(code))
	}
	listed, _ := c.openapi.at("components", "schemas", "Code")["enum"].([]any)
	var enum []string
	for _, v := range listed {
		enum = append(enum, v.(string))
	}
	if slices.Sort(enum); !slices.Equal(enum, known) {
		t.Errorf("codes listed %v, known %v", enum, known)
	}

	// What the sources that answer devices name can be answered.
	constants := wireConstants(t)
	for _, dir := range []string{".", "../pull", "../auth"} {
		for name := range named(t, dir) {
			value, is := constants[name]
			switch {
			case !is:
			case strings.HasPrefix(name, "Close"):
				if c.asyncapi.at("channels", "socket", "x-close-codes")[value] == nil {
					t.Errorf("%s: close code %s is not documented", dir, value)
				}
			case slices.Contains(known, value) || strings.HasPrefix(name, "Cause"):
				if !documented[value] {
					t.Errorf("%s: %s is not documented where it is answered", dir, value)
				}
			case name[0] == 'T' && c.asyncapi.at("components", "messages", value) == nil:
				t.Errorf("%s: frame %s is not documented", dir, value)
			}
		}
	}
}

// The examples are what they illustrate, and the wire's types read them without loss.
func TestContractExamples(t *testing.T) {
	c := theContract()
	reads := map[string]any{
		"Page": new(wire.Page), "Problem": new(wire.Problem), "PollOrder": &map[string]int{}, "Revocation": &map[string]string{},
		"Registration": new(wire.Registration), "Device": new(wire.Device),
		wire.THello: new(wire.Hello), wire.TPull: new(wire.Pull), wire.TAck: new(wire.Ack), wire.TToken: new(wire.Token),
		wire.TReady: new(wire.Ready), wire.TCursor: new(wire.Cursor), wire.TNudge: new(wire.Nudge), wire.TChanges: new(wire.Changes),
		wire.TTokenExpiring: new(wire.TokenExpiring), wire.TGoaway: new(wire.Goaway), wire.TError: new(wire.Error), wire.TClose: new(wire.Close),
	}
	check := func(name, place string, example any) {
		t.Helper()
		text, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.valid(place, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		into, known := reads[name]
		if !known {
			t.Errorf("%s: no type of wire", name)
			return
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range c.openapi.at("components", "schemas") {
		examples, _ := node(s.(map[string]any))["examples"].([]any)
		for _, e := range examples {
			check(name, "openapi.yaml#/components/schemas/"+name, e)
		}
	}
	messages := c.asyncapi.at("components", "messages")
	for name, m := range messages {
		examples, _ := node(m.(map[string]any))["examples"].([]any)
		if len(examples) == 0 {
			t.Errorf("%s has no example", name)
		}
		for _, e := range examples {
			check(name, "asyncapi.yaml#/components/messages/"+name+"/payload", e.(map[string]any)["payload"])
		}
	}
	for name := range maps.Keys(reads) {
		if name[0] >= 'a' && messages[name] == nil {
			t.Errorf("%s is not documented", name)
		}
	}
}

func TestContractIsServed(t *testing.T) {
	w := tcp(t)
	for path, want := range map[string][]byte{"/v1/openapi.yaml": api.OpenAPI, "/v1/asyncapi.yaml": api.AsyncAPI} {
		res, body := w.ask("GET", path, "", "Authorization", "", wire.HeaderDevice, "")
		if res.StatusCode != 200 || body != string(want) || res.Header.Get("Content-Type") != "application/yaml" {
			t.Errorf("%s: %d %v", path, res.StatusCode, res.Header)
		}
		res, body = w.ask("GET", path, "", "Accept-Encoding", "zstd")
		if decoded(t, res.Header.Get("Content-Encoding"), body) != string(want) || res.Header.Get("Content-Encoding") != "zstd" {
			t.Errorf("%s: %v", path, res.Header)
		}
		head, body := w.ask("HEAD", path, "", "Accept-Encoding", "zstd")
		if head.StatusCode != 200 || body != "" || head.ContentLength != res.ContentLength || head.Header.Get("ETag") != res.Header.Get("ETag") {
			t.Errorf("HEAD %s: %d %v", path, head.StatusCode, head.Header)
		}
	}
}
