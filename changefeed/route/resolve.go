package route

import (
	"fmt"
	"slices"
	"strings"
)

// Spec is what the operator says of one table.
type Spec struct {
	Owner       string
	Allow, Deny []string
}

// Resolve completes the operator's words from the catalog, or says which table they do not fit.
func Resolve(specs map[string]Spec, catalog map[string]*CatalogTable, wideNumbersAsStrings bool) (*Config, error) {
	c := &Config{Tables: make(map[string]Rule, len(specs)), WideNumbersAsStrings: wideNumbersAsStrings}
	for name, s := range specs {
		t, ok := catalog[name]
		switch {
		case !ok:
			return nil, fmt.Errorf("check_table_missing: table %s does not exist", name)
		case len(t.PrimaryKey) == 0:
			return nil, fmt.Errorf("check_primary_key: table %s has no primary key", name)
		}
		for _, col := range slices.Concat([]string{s.Owner}, s.Allow, s.Deny) {
			if _, ok := t.Column(col); !ok {
				return nil, fmt.Errorf("check_column_missing: table %s has no column %q; it has %s", name, col, columnNames(t))
			}
		}
		c.Tables[name] = Rule{Owner: s.Owner, Key: t.PrimaryKey, Allow: sorted(s.Allow), Deny: sorted(s.Deny)}
	}
	return c, nil
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func columnNames(t *CatalogTable) string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}
