package value

import "bytes"

// maxDimensions is Postgres's MAXDIM.
const maxDimensions = 6

// arrayConverter serves what array_out prints: {1,2}, {{a,NULL},{"b c","d\"e"}}, or, when a lower
// bound is not 1, [2:3]={1,2}. As in to_jsonb, bounds are dropped and dimensions nest.
func arrayConverter(elem Converter, delim byte) Converter {
	return func(dst, text []byte) ([]byte, error) {
		p := arrayParser{text: text, elem: elem, delim: delim}
		out, err := p.convert(dst)
		if err != nil {
			return dst, err
		}
		return out, nil
	}
}

type arrayParser struct {
	text  []byte
	elem  Converter
	delim byte

	pos   int
	depth int // open braces
	leaf  int // the depth at which elements stand, 0 until the first is met
	// sizes are the lengths of the arrays open now, and of those closed before at that depth: an array
	// is rectangular.
	open   [maxDimensions]int
	closed [maxDimensions]int
}

func (p *arrayParser) convert(dst []byte) ([]byte, error) {
	bounds, ok := p.bounds()
	if !ok {
		return dst, p.poison()
	}
	if string(p.text[p.pos:]) == "{}" {
		return append(dst, '[', ']'), nil
	}
	for {
		var err error
		if dst, err = p.value(dst); err != nil {
			return dst, err
		}
		// Behind a value: close what ends here, then a delimiter, or the end.
		for p.next('}') {
			if !p.closeArray() {
				return dst, p.poison()
			}
			dst = append(dst, ']')
			if p.depth == 0 {
				if p.pos != len(p.text) || bounds != 0 && bounds != p.leaf {
					return dst, p.poison()
				}
				return dst, nil
			}
		}
		if !p.next(p.delim) {
			return dst, p.poison()
		}
		dst = append(dst, ',')
	}
}

// value opens the arrays that start here and converts the element after them.
func (p *arrayParser) value(dst []byte) ([]byte, error) {
	for p.next('{') {
		if p.depth == maxDimensions {
			return dst, p.poison()
		}
		p.open[p.depth] = 0
		p.depth++
		dst = append(dst, '[')
	}
	if p.leaf == 0 {
		p.leaf = p.depth
	}
	if p.depth == 0 || p.leaf != p.depth {
		return dst, p.poison()
	}
	p.open[p.depth-1]++
	if p.next('"') {
		return p.quoted(dst)
	}
	return p.bare(dst)
}

func (p *arrayParser) bare(dst []byte) ([]byte, error) {
	start := p.pos
	for p.pos < len(p.text) && p.text[p.pos] != p.delim && p.text[p.pos] != '}' {
		switch p.text[p.pos] {
		case '{', '"', '\\':
			return dst, p.poison()
		}
		p.pos++
	}
	text := p.text[start:p.pos]
	if len(text) == 0 {
		return dst, p.poison()
	}
	if len(text) == 4 && bytes.EqualFold(text, []byte("NULL")) {
		return append(dst, "null"...), nil
	}
	return p.elem(dst, text)
}

// quoted converts the element whose opening quote was read. A backslash escapes any character.
func (p *arrayParser) quoted(dst []byte) ([]byte, error) {
	start := p.pos
	n := bytes.IndexAny(p.text[start:], `"\`)
	if n < 0 {
		return dst, p.poison()
	}
	if p.text[start+n] == '"' {
		p.pos = start + n + 1
		return p.elem(dst, p.text[start:start+n])
	}
	mark := len(dst)
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		p.pos++
		switch c {
		case '"':
			return convertTail(dst, mark, p.elem)
		case '\\':
			if p.pos == len(p.text) {
				return dst, p.poison()
			}
			c = p.text[p.pos]
			p.pos++
		}
		dst = append(dst, c)
	}
	return dst, p.poison()
}

// convertTail converts the text that stands in dst from mark on and puts the JSON in its place. So
// unescaping needs no buffer of its own.
func convertTail(dst []byte, mark int, convert Converter) ([]byte, error) {
	end := len(dst)
	dst, err := convert(dst, dst[mark:end])
	if err != nil {
		return dst, err
	}
	n := copy(dst[mark:], dst[end:])
	return dst[:mark+n], nil
}

// closeArray ends the innermost array and counts it in the one around it.
func (p *arrayParser) closeArray() bool {
	d := p.depth - 1
	if p.closed[d] != 0 && p.closed[d] != p.open[d] {
		return false
	}
	p.closed[d] = p.open[d]
	p.depth = d
	if d > 0 {
		p.open[d-1]++
	}
	return true
}

// bounds reads [2:3][-1:0]= and gives the number of pairs.
func (p *arrayParser) bounds() (pairs int, ok bool) {
	for p.next('[') {
		if !p.integer() || !p.next(':') || !p.integer() || !p.next(']') {
			return 0, false
		}
		pairs++
	}
	return pairs, pairs == 0 || p.next('=')
}

func (p *arrayParser) integer() bool {
	n := integerLen(p.text[p.pos:])
	p.pos += n
	return n > 0
}

func (p *arrayParser) next(c byte) bool {
	if p.pos < len(p.text) && p.text[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *arrayParser) poison() error { return poison("an array", p.pos) }

// vectorConverter serves int2vector and oidvector: elements with a blank between, in one dimension.
func vectorConverter(elem Converter) Converter {
	return func(dst, text []byte) ([]byte, error) {
		out := append(dst, '[')
		for rest := text; len(rest) > 0; {
			n := integerLen(rest)
			if n == 0 || n < len(rest) && (rest[n] != ' ' || n+1 == len(rest)) {
				return dst, poison("a vector", len(text)-len(rest)+n)
			}
			var err error
			if out, err = elem(out, rest[:n]); err != nil {
				return dst, err
			}
			if n == len(rest) {
				break
			}
			out = append(out, ',')
			rest = rest[n+1:]
		}
		return append(out, ']'), nil
	}
}
