// Package route decides whose data a row event is: a pure function of the configuration, the table as it
// is streamed, the old key and the new row. It reads nothing else (I3).
//
//	insert          upsert for the new owner
//	update          upsert for the owner; after an owner or key change, a delete of the old first
//	  with an unchanged TOAST value that the old tuple lacks: a patch; or, where owner or key changed,
//	  a reset of the table for the new owner
//	delete          delete for the old owner
//	truncate        a reset of the table for everybody
//
// A transaction's events become its net effect per (scope, table, key): what no snapshot could ever have
// seen reaches nobody (A12).
package route
