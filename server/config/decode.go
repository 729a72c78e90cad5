package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decoder reads one file into a Config. It walks the syntax tree itself, because the library's
// decoder stops at the first error and forgets where the values stood, which validation needs.
type decoder struct {
	*loader
	file    string
	lines   []string
	anchors map[string]ast.Node
}

// decode sets what data configures and leaves the rest of cfg as it is.
func (l *loader) decode(file string, data []byte, cfg *Config) {
	// A carriage return alone is a line break too (YAML 1.2, 5.4).
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
	d := &decoder{loader: l, file: file, lines: strings.Split(text, "\n"), anchors: map[string]ast.Node{}}
	tree, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		d.syntaxError(err)
		return
	}
	bodies := slices.DeleteFunc(tree.Docs, func(doc *ast.DocumentNode) bool { return doc.Body == nil })
	if len(bodies) == 0 {
		return
	}
	if len(bodies) > 1 {
		d.add(d.at(bodies[1].Body.GetToken(), 0), &Error{Code: Syntax, Message: "a second YAML document begins here; there can be one"})
	}
	ast.Walk(d, bodies[0].Body)
	d.value("", bodies[0].Body, reflect.ValueOf(cfg).Elem())
}

// Visit collects anchors (ast.Visitor).
func (d *decoder) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		d.anchors[a.Name.String()] = a.Value
	}
	return d
}

func (d *decoder) syntaxError(err error) {
	e := &Error{Code: Syntax, Message: "this is not YAML"}
	var y yaml.Error
	if !errors.As(err, &y) {
		e.File = d.file
		d.errs = append(d.errs, e)
		return
	}
	e.Message = y.GetMessage()
	t, length := y.GetToken(), 0 // a value may be a secret, a key is shown
	if t != nil && t.Next != nil && t.Next.Type == token.MappingValueType {
		length = len([]rune(t.Value))
	}
	d.add(d.at(t, length), e)
}

// resolve follows anchors and aliases. A chain of them that doesn't end yields nil, as null does.
func (d *decoder) resolve(n ast.Node) ast.Node {
	for range 16 {
		switch t := n.(type) {
		case *ast.AnchorNode:
			n = t.Value
		case *ast.AliasNode:
			n = d.anchors[t.Value.String()]
		case *ast.TagNode:
			n = t.Value
		case *ast.NullNode:
			return nil
		default:
			return n
		}
	}
	return nil
}

// value sets v, whose path is path, from n. Null is no value: a default stays.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	n = d.resolve(n)
	if n == nil {
		return
	}
	if isScalarType(v.Type()) {
		d.scalar(path, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem())
	case reflect.Struct:
		d.structure(path, n, v)
	case reflect.Map:
		d.mapping(path, n, v)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			d.wrongKind(path, n, "a list, [a, b]")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
		for i, item := range seq.Values {
			p := fmt.Sprintf("%s[%d]", path, i)
			d.where[p] = d.atNode(item)
			d.value(p, item, v.Index(i))
		}
	}
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.entries(path, n)
	if !ok {
		return
	}
	fields := fieldsOf(v.Type())
	for _, e := range entries {
		i, ok := fields[e.name]
		if !ok {
			d.unknownKey(path, e, sortedKeys(fields))
			continue
		}
		p := join(path, e.name)
		d.where[p] = e.place
		d.value(p, e.value, v.Field(i))
	}
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.entries(path, n)
	if !ok {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range entries {
		p := join(path, e.name)
		d.where[p] = e.place
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(p, e.value, item)
		v.SetMapIndex(reflect.ValueOf(e.name), item)
	}
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	secret := v.Type() == reflect.TypeFor[Secret]()
	if !secret {
		d.where[path] = d.atNode(n)
	}
	var text string
	switch t := n.(type) {
	case *ast.LiteralNode:
		text = t.Value.Value
	case *ast.StringNode:
		text = t.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = n.GetToken().Value
	default:
		d.wrongKind(path, n, "one value")
		return
	}
	if err := setScalar(v, text); err != nil {
		d.addKey(path, &Error{Code: Invalid, Message: path + ": " + err.Error()})
	}
}

// entry is one key with its value.
type entry struct {
	name  string
	place place
	value ast.Node
}

func (d *decoder) entries(path string, n ast.Node) ([]entry, bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.wrongKind(path, n, "entries, key: value")
		return nil, false
	}
	var out []entry
	for it := m.MapRange(); it.Next(); {
		t := it.Key().GetToken()
		out = append(out, entry{t.Value, d.at(t, len([]rune(t.Value))), it.Value()})
	}
	return out, true
}

func (d *decoder) unknownKey(path string, e entry, known []string) {
	in := path
	if in == "" {
		in = "the file"
	}
	err := &Error{Code: UnknownKey, Key: join(path, e.name), Message: fmt.Sprintf("%s has no key %q", in, e.name)}
	if near := nearest(e.name, known); near != "" {
		err.Hint = fmt.Sprintf("did you mean %q?", near)
	} else {
		err.Hint = "its keys are: " + strings.Join(known, ", ")
	}
	d.add(e.place, err)
}

func (d *decoder) wrongKind(path string, n ast.Node, want string) {
	if path == "" {
		d.add(d.atNode(n), &Error{Code: Syntax, Message: "the file wants " + want})
		return
	}
	d.addKey(path, &Error{Code: Invalid, Message: path + " wants " + want})
}

// atNode is the place of a node's first character, marked to its end if it is one plain value.
func (d *decoder) atNode(n ast.Node) place {
	if _, ok := n.(ast.ScalarNode); !ok {
		if m, ok := n.(ast.MapNode); ok {
			if it := m.MapRange(); it.Next() {
				t := it.Key().GetToken()
				return d.at(t, len([]rune(t.Value)))
			}
		}
		return d.at(n.GetToken(), 1)
	}
	t := n.GetToken()
	if t.Type == token.LiteralType || t.Type == token.FoldedType {
		return d.at(t, 1)
	}
	return d.at(t, len([]rune(strings.TrimSpace(t.Origin))))
}

func (d *decoder) at(t *token.Token, length int) place {
	if t == nil || t.Position == nil {
		return place{file: d.file}
	}
	p := place{file: d.file, line: t.Position.Line, column: t.Position.Column}
	if i := p.line - 1; i >= 0 && i < len(d.lines) {
		p.excerpt = excerpt(d.lines[i], p.column, length)
	}
	return p
}

// isScalarType says whether a value of t is one string in the file and in the environment.
func isScalarType(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Int, reflect.Int64, reflect.Bool:
		return true
	}
	return false
}

// setScalar parses text as v's type. Its error doesn't repeat a secret.
func setScalar(v reflect.Value, text string) error {
	switch v.Interface().(type) {
	case time.Duration:
		t, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("want a duration such as 8s, 15m or 720h, not %q", text)
		}
		v.SetInt(int64(t))
	case Bytes:
		b, err := parseBytes(text)
		if err != nil {
			return err
		}
		v.SetInt(int64(b))
	case int:
		n, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
		if err != nil {
			return fmt.Errorf("want a whole number, not %q", text)
		}
		v.SetInt(int64(n))
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("want true or false, not %q", text)
		}
		v.SetBool(b)
	default:
		v.SetString(text)
	}
	return nil
}

// fieldsOf maps a struct's keys to its fields.
func fieldsOf(t reflect.Type) map[string]int {
	out := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		out[t.Field(i).Tag.Get("yaml")] = i
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
