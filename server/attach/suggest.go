package attach

import "strings"

// suggest names the table that was probably meant: a near one, or one of that name in another schema.
func (st *state) suggest(name string) string {
	_, bare, _ := strings.Cut(name, ".")
	for _, k := range st.known {
		if _, b, _ := strings.Cut(k, "."); strings.EqualFold(b, bare) {
			return ", did you mean " + k + "?"
		}
	}
	return didYouMean(name, st.known)
}

// didYouMean names the known word that is fewest edits away, if they are few.
func didYouMean(word string, known []string) string {
	best, least := "", max(2, len(word)/4)+1
	for _, k := range known {
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
