package value

// Postgres prints dates and times in ISO 8601 but for the blank between them and a zone cut short
// ("2024-05-06 07:08:09.5+00"); to_jsonb writes 2024-05-06T07:08:09.5+00:00. Years have at least four
// digits; " BC" stands at the very end. Any other shape means that DateStyle is not ours.

func convertDate(dst, text []byte) ([]byte, error) {
	if isInfinity(text) {
		return appendQuoted(dst, text), nil
	}
	n := dateLen(text)
	if n == 0 || !isEra(text[n:]) {
		return dst, poison("an ISO date", n)
	}
	return appendQuoted(dst, text), nil
}

func convertTimestamp(dst, text []byte) ([]byte, error) {
	if isInfinity(text) {
		return appendQuoted(dst, text), nil
	}
	date, end := dateAndTime(text)
	if end == 0 || !isEra(text[end:]) {
		return dst, poison("an ISO timestamp", end)
	}
	dst = append(dst, '"')
	dst = append(dst, text[:date]...)
	dst = append(dst, 'T')
	dst = append(dst, text[date+1:]...)
	return append(dst, '"'), nil
}

func convertTimestamptz(dst, text []byte) ([]byte, error) {
	if isInfinity(text) {
		return appendQuoted(dst, text), nil
	}
	date, end := dateAndTime(text)
	if end == 0 {
		return dst, poison("an ISO timestamp with time zone", 0)
	}
	zone := zoneLen(text[end:])
	era := end + zone
	if zone == 0 || !isEra(text[era:]) {
		return dst, poison("an ISO timestamp with time zone", era)
	}
	dst = append(dst, '"')
	dst = append(dst, text[:date]...)
	dst = append(dst, 'T')
	dst = append(dst, text[date+1:era]...)
	if zone == len("+00") {
		dst = append(dst, ":00"...)
	}
	dst = append(dst, text[era:]...)
	return append(dst, '"'), nil
}

func isInfinity(s []byte) bool {
	return string(s) == "infinity" || string(s) == "-infinity"
}

func isEra(s []byte) bool { return len(s) == 0 || string(s) == " BC" }

// dateAndTime gives the ends of date and time in "2024-05-06 07:08:09.5…"; end is 0 for other text.
func dateAndTime(s []byte) (date, end int) {
	date = dateLen(s)
	if date == 0 || date == len(s) || s[date] != ' ' {
		return 0, 0
	}
	clock := clockLen(s[date+1:])
	if clock == 0 {
		return 0, 0
	}
	return date, date + 1 + clock
}

// dateLen is the length of the date that s starts with, 0 if there is none.
func dateLen(s []byte) int {
	const monthAndDay = len("-05-06")
	year := digitsLen(s)
	if year < 4 || year > 7 || len(s) < year+monthAndDay {
		return 0
	}
	if s[year] != '-' || !twoDigits(s[year+1:]) || s[year+3] != '-' || !twoDigits(s[year+4:]) {
		return 0
	}
	return year + monthAndDay
}

// clockLen is the length of the time of day that s starts with, 0 if there is none.
func clockLen(s []byte) int {
	const whole = len("07:08:09")
	if len(s) < whole || !twoDigits(s) || s[2] != ':' || !twoDigits(s[3:]) || s[5] != ':' || !twoDigits(s[6:]) {
		return 0
	}
	if len(s) == whole || s[whole] != '.' {
		return whole
	}
	fraction := digitsLen(s[whole+1:])
	if fraction < 1 || fraction > 6 {
		return 0
	}
	return whole + 1 + fraction
}

// zoneLen is the length of the zone, +00 or +05:45 or +00:17:30, that s starts with, 0 if there is none.
func zoneLen(s []byte) int {
	if len(s) < 3 || s[0] != '+' && s[0] != '-' || !twoDigits(s[1:]) {
		return 0
	}
	n := 3
	for n < 9 && len(s) >= n+3 && s[n] == ':' && twoDigits(s[n+1:]) {
		n += 3
	}
	return n
}

func twoDigits(s []byte) bool { return len(s) >= 2 && isDigit(s[0]) && isDigit(s[1]) }
