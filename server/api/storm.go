package api

// minStorm is how many sessions that came or went are worth a collection.
const minStorm = 1000

// storm knows when many sessions have come or gone, and no more do. What they leave behind, as of a handshake five
// times what the session then holds, would stay with the process: sessions at rest allocate so little that it
// is not collected for minutes, and nothing of it is given back to the system.
type storm struct {
	last    int // the turnover when it was looked at last
	settled int // and when the last storm was over
}

// over is asked once a second. turnover counts the sessions that have come and those that have gone; open is
// how many there are. A node whose sessions are renewed by their age alone has a storm in half their age.
func (s *storm) over(turnover, open int) bool {
	lately := turnover - s.last
	s.last = turnover
	if turnover-s.settled < max(minStorm, open/2) || lately > max(minStorm, open)/100 {
		return false
	}
	s.settled = turnover
	return true
}

// turnover counts the sessions that have come, and those that have gone.
func (a *API) turnover() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.turned
}
