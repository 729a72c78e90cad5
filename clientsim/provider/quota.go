package provider

import "time"

// bucket is a token bucket. The zero bucket is full.
type bucket struct {
	used float64
	at   time.Time
}

// take takes one of the bucket that holds size and gains one every period. If it is empty, take says
// how long until it is not.
func (b *bucket) take(now time.Time, size float64, period time.Duration) (wait time.Duration, ok bool) {
	b.used = max(0, b.used-float64(now.Sub(b.at))/float64(period))
	b.at = now
	if b.used+1 > size {
		return time.Duration((b.used + 1 - size) * float64(period)), false
	}
	b.used++
	return 0, true
}

// deviceQuota is what a provider lets one token receive.
type deviceQuota struct {
	minute, hour, collapsible bucket
}

// Firebase's "FCM throttling and quotas": a device takes 240 messages a minute and 5,000 an hour; of
// collapsible ones a burst of 20, and one more every 3 minutes.
const (
	fcmPerMinute   = 240
	fcmPerHour     = 5000
	fcmCollapsible = 20
	fcmRefill      = 3 * time.Minute
)

// apnsPerToken is a guess at what APNs calls too many consecutive requests for one token, a minute: Apple does not
// say.
const apnsPerToken = 120

// pushPerToken is likewise what a Web Push service takes for one subscription, a minute.
const pushPerToken = 120

// fcm takes a message to the device off its quotas. If one is used up, fcm names it and says for how
// long.
func (q *deviceQuota) fcm(now time.Time, collapsible bool) (quota string, wait time.Duration) {
	if collapsible {
		if wait, ok := q.collapsible.take(now, fcmCollapsible, fcmRefill); !ok {
			return "collapsible message rate", wait
		}
	}
	if wait, ok := q.minute.take(now, fcmPerMinute, time.Minute/fcmPerMinute); !ok {
		return "device message rate", wait
	}
	if wait, ok := q.hour.take(now, fcmPerHour, time.Hour/fcmPerHour); !ok {
		return "device message rate", wait
	}
	return "", 0
}

func (q *deviceQuota) perMinute(now time.Time, n float64) (wait time.Duration, ok bool) {
	return q.minute.take(now, n, time.Minute/time.Duration(n))
}
