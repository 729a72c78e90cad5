package value

// OIDs of the types that do not print as plain strings. Postgres assigns them by hand, in
// src/include/catalog/pg_type.dat, and never changes them.
const (
	boolOID        = 16
	byteaOID       = 17
	int8OID        = 20
	int2OID        = 21
	int2vectorOID  = 22
	int4OID        = 23
	textOID        = 25
	oidvectorOID   = 30
	jsonOID        = 114
	float4OID      = 700
	float8OID      = 701
	dateOID        = 1082
	timestampOID   = 1114
	timestamptzOID = 1184
	numericOID     = 1700
	jsonbOID       = 3802

	// Below it OIDs are assigned by hand, from it on they differ between databases.
	firstUnpinnedOID = 10000
)

// builtinArray is the element type of a built-in array type and the delimiter between elements; elem
// is 0 for any other type. Element types that print as plain strings all count as text.
func builtinArray(oid uint32) (elem uint32, delim byte) {
	switch oid {
	case 199:
		return jsonOID, ','
	case 1000:
		return boolOID, ','
	case 1001:
		return byteaOID, ','
	case 1005:
		return int2OID, ','
	case 1006:
		return int2vectorOID, ','
	case 1007:
		return int4OID, ','
	case 1013:
		return oidvectorOID, ','
	case 1016:
		return int8OID, ','
	case 1021:
		return float4OID, ','
	case 1022:
		return float8OID, ','
	case 1115:
		return timestampOID, ','
	case 1182:
		return dateOID, ','
	case 1185:
		return timestamptzOID, ','
	case 1231:
		return numericOID, ','
	case 3807:
		return jsonbOID, ','
	case 1020: // box[]
		return textOID, ';'
	case 143, 271, 629, 651, 719, 775, 791, 1002, 1003, 1008, 1009, 1010, 1011, 1012, 1014, 1015, 1017,
		1018, 1019, 1027, 1028, 1034, 1040, 1041, 1183, 1187, 1270, 1561, 1563, 2201, 2207, 2208, 2209,
		2210, 2211, 2949, 2951, 3221, 3643, 3644, 3645, 3735, 3770, 3905, 3907, 3909, 3911, 3913, 3927,
		4073, 4090, 4097, 4192, 5039, 6150, 6151, 6152, 6153, 6155, 6157:
		return textOID, ','
	}
	return 0, 0
}
