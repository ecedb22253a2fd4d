-- The store of a fabric of version 0.1.0, written by its own code (commit a9f4429) and dumped with sqlite3's `.dump`;
-- frozen: this is what people have, and migrations must bring it to the present. In it are an incident that was healed,
-- two that name no configured service, one that a person closed while its alert fired, one whose fabric was killed in
-- the middle of a restart, an alert that ended before it had an incident and one that was not taken in yet.
BEGIN TRANSACTION;
CREATE TABLE actions (
	number INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	incident_id TEXT NOT NULL, 
	strategy TEXT NOT NULL, 
	platform TEXT NOT NULL, 
	target TEXT NOT NULL, 
	disruptive BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	verdict TEXT, 
	detail TEXT, 
	"before" JSON NOT NULL, 
	intended_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	finished_at DOUBLE, 
	PRIMARY KEY (number), 
	UNIQUE (id), 
	FOREIGN KEY(incident_id) REFERENCES incidents (id)
);
INSERT INTO "actions" VALUES(1,'20270115-080000-5e1ac27f/restart-13bb5f0b','20270115-080000-5e1ac27f','restart','http','http:http://cart.example/cart/restart',1,1,'succeeded','healed','http://cart.example/cart/restart answered 200','{"started_at": 0, "process_start": null}',1800000000.0,1800000000.0,1800000000.0);
INSERT INTO "actions" VALUES(2,'20270115-080750-b987cd81/restart-c38b5477','20270115-080750-b987cd81','restart','http','http:http://cart.example/cart/restart',1,1,'started',NULL,NULL,'{"started_at": 1, "process_start": null}',1800000471.0,1800000471.0,NULL);
CREATE TABLE alerts (
	id INTEGER NOT NULL, 
	fingerprint TEXT NOT NULL, 
	starts_at TEXT NOT NULL, 
	status TEXT NOT NULL, 
	labels JSON NOT NULL, 
	annotations JSON NOT NULL, 
	received_at DOUBLE NOT NULL, 
	ended_at DOUBLE, 
	incident_id TEXT, 
	PRIMARY KEY (id), 
	CONSTRAINT alert_identity UNIQUE (fingerprint, starts_at), 
	FOREIGN KEY(incident_id) REFERENCES incidents (id)
);
INSERT INTO "alerts" VALUES(1,'heartbeat-cart','1800000000','resolved','{"alertname": "Test", "signal": "heartbeat", "severity": "critical", "service": "cart"}','{"summary": "it fails"}',1800000000.0,1800000060.0,'20270115-080000-5e1ac27f');
INSERT INTO "alerts" VALUES(2,'weird-nobody','1800000460','firing','{"alertname": "Test", "signal": "weird", "severity": "critical", "note": "two\nlines and \u00fc", "service": "nobody"}','{"summary": "it fails"}',1800000460.0,NULL,'20270115-080740-9de5c030');
INSERT INTO "alerts" VALUES(3,'x-None','1800000460','firing','{"alertname": "Test", "signal": "x", "severity": "critical"}','{"summary": "it fails"}',1800000460.0,NULL,'20270115-080740-0e3b2251');
INSERT INTO "alerts" VALUES(4,'errors-db','1800000465','firing','{"alertname": "Test", "signal": "errors", "severity": "critical", "service": "db"}','{"summary": "it fails"}',1800000465.0,NULL,'20270115-080745-1c769857');
INSERT INTO "alerts" VALUES(5,'gone','5','resolved','{"alertname": "Test", "signal": "heartbeat", "severity": "critical", "service": "db"}','{"summary": "it fails"}',1800000470.0,1800000470.0,NULL);
INSERT INTO "alerts" VALUES(6,'heartbeat-cart','1800000470','firing','{"alertname": "Test", "signal": "heartbeat", "severity": "critical", "service": "cart"}','{"summary": "it fails"}',1800000470.0,NULL,'20270115-080750-b987cd81');
INSERT INTO "alerts" VALUES(7,'errors-db','77','firing','{"alertname": "Test", "signal": "errors", "severity": "critical", "service": "db"}','{"summary": "it fails"}',1800000471.0,NULL,NULL);
CREATE TABLE controls (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	changed_at DOUBLE NOT NULL, 
	changed_by TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "controls" VALUES('mode','automatic',1800000470.0,'ann');
CREATE TABLE heartbeats (
	service TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	PRIMARY KEY (service)
);
INSERT INTO "heartbeats" VALUES('db',1800000470.0);
CREATE TABLE incidents (
	id TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	service TEXT, 
	known_service BOOLEAN NOT NULL, 
	title TEXT NOT NULL, 
	severity TEXT NOT NULL, 
	signal TEXT, 
	state TEXT NOT NULL, 
	outcome TEXT, 
	failure_class TEXT, 
	pattern TEXT, 
	confidence DOUBLE, 
	level INTEGER NOT NULL, 
	level_due_at DOUBLE, 
	acknowledged_by TEXT, 
	approved_by TEXT, 
	opened_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	resolved_at DOUBLE, 
	closed_at DOUBLE, 
	due_at DOUBLE, 
	lease_owner TEXT, 
	lease_until DOUBLE, 
	epoch INTEGER NOT NULL, 
	waiting_for TEXT, 
	waiting_since DOUBLE, 
	relapses INTEGER NOT NULL, 
	faults INTEGER NOT NULL, 
	"plan" JSON NOT NULL, 
	diagnosis JSON, 
	verification JSON, 
	PRIMARY KEY (id)
);
INSERT INTO "incidents" VALUES('20270115-080000-5e1ac27f','service/cart','cart',1,'it fails','critical','heartbeat','closed','healed','service_failure','unknown',0.0,0,NULL,NULL,NULL,1800000000.0,1800000307.0,1800000007.0,1800000307.0,NULL,NULL,NULL,11,NULL,NULL,0,0,'["restart"]','{"failure_class": "service_failure", "reason": "the service does not answer", "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}], "cause": {"pattern": "unknown", "service": "cart", "confidence": 0.0, "evidence": []}, "alternatives": [{"pattern": "code_bug", "service": "cart", "confidence": 0.25, "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}]}], "impact": {"severity": "critical", "urgency": "now", "users_affected": 1.0, "tier": "standard", "dependants": [], "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}]}}','{"since": 1800000000.0, "action": "20270115-080000-5e1ac27f/restart-13bb5f0b", "started_before": null, "deadline": 1800000060.0}');
INSERT INTO "incidents" VALUES('20270115-080740-9de5c030','alert/weird-nobody','nobody',0,'it fails','critical','weird','escalated',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,1800000460.0,1800000471.0,NULL,NULL,1800000481.0,NULL,NULL,3,NULL,NULL,0,0,'[]',NULL,'{"since": 1800000460.0, "action": null, "started_before": null, "deadline": null}');
INSERT INTO "incidents" VALUES('20270115-080740-0e3b2251','alert/x-None',NULL,0,'it fails','critical','x','escalated',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,1800000460.0,1800000471.0,NULL,NULL,1800000481.0,NULL,NULL,3,NULL,NULL,0,0,'[]',NULL,'{"since": 1800000460.0, "action": null, "started_before": null, "deadline": null}');
INSERT INTO "incidents" VALUES('20270115-080745-1c769857','service/db','db',1,'it fails','critical','errors','closed','closed_by_person','unknown','unknown',0.0,1,NULL,NULL,NULL,1800000465.0,1800000470.0,1800000470.0,1800000470.0,NULL,NULL,NULL,8,NULL,NULL,0,0,'[]','{"failure_class": "unknown", "reason": "nothing that is measured explains the alert", "evidence": [], "cause": {"pattern": "unknown", "service": "db", "confidence": 0.0, "evidence": []}, "alternatives": [], "impact": {"severity": "critical", "urgency": "now", "users_affected": null, "tier": "standard", "dependants": [], "evidence": []}}','{"since": 1800000465.0, "action": null, "started_before": null, "deadline": null}');
INSERT INTO "incidents" VALUES('20270115-080750-b987cd81','service/cart','cart',1,'it fails','critical','heartbeat','recovering',NULL,'service_failure','unknown',0.0,0,NULL,NULL,NULL,1800000470.0,1800000471.0,NULL,NULL,1800000470.5,'test',1800000591.0,3,NULL,NULL,0,0,'["restart"]','{"failure_class": "service_failure", "reason": "the service does not answer", "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}], "cause": {"pattern": "unknown", "service": "cart", "confidence": 0.0, "evidence": []}, "alternatives": [{"pattern": "code_bug", "service": "cart", "confidence": 0.25, "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}]}], "impact": {"severity": "critical", "urgency": "now", "users_affected": 1.0, "tier": "standard", "dependants": [], "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}]}}',NULL);
CREATE TABLE timeline (
	id INTEGER NOT NULL, 
	incident_id TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	kind TEXT NOT NULL, 
	message TEXT NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(incident_id) REFERENCES incidents (id)
);
INSERT INTO "timeline" VALUES(1,'20270115-080000-5e1ac27f',1800000000.0,'alert','Test opened the incident: it fails','{"fingerprint": "heartbeat-cart", "starts_at": "1800000000", "labels": {"alertname": "Test", "signal": "heartbeat", "severity": "critical", "service": "cart"}, "annotations": {"summary": "it fails"}}');
INSERT INTO "timeline" VALUES(2,'20270115-080000-5e1ac27f',1800000000.0,'state','detected -> diagnosing','{"from": "detected", "to": "diagnosing"}');
INSERT INTO "timeline" VALUES(3,'20270115-080000-5e1ac27f',1800000000.0,'evidence','cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.','{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}');
INSERT INTO "timeline" VALUES(4,'20270115-080000-5e1ac27f',1800000000.0,'diagnosis','service_failure: the service does not answer. Cause: unknown in cart, confidence 0.00.','{"failure_class": "service_failure", "reason": "the service does not answer", "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}], "cause": {"pattern": "unknown", "service": "cart", "confidence": 0.0, "evidence": []}, "alternatives": [{"pattern": "code_bug", "service": "cart", "confidence": 0.25, "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}]}], "impact": {"severity": "critical", "urgency": "now", "users_affected": 1.0, "tier": "standard", "dependants": [], "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}]}}');
INSERT INTO "timeline" VALUES(5,'20270115-080000-5e1ac27f',1800000000.0,'plan','Plan: restart.','{"strategies": ["restart"]}');
INSERT INTO "timeline" VALUES(6,'20270115-080000-5e1ac27f',1800000000.0,'state','diagnosing -> recovering','{"from": "diagnosing", "to": "recovering"}');
INSERT INTO "timeline" VALUES(7,'20270115-080000-5e1ac27f',1800000000.0,'evidence','heartbeat is 0 (share of targets that answer), outside its limit: all answer.','{"statement": "heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_up:ratio{service=\"cart\"}", "value": 0.0, "at": 1800000000.0}');
INSERT INTO "timeline" VALUES(8,'20270115-080000-5e1ac27f',1800000000.0,'action','Intends to restart http:http://cart.example/cart/restart (attempt 1).','{"action": "20270115-080000-5e1ac27f/restart-13bb5f0b", "strategy": "restart", "target": "http:http://cart.example/cart/restart"}');
INSERT INTO "timeline" VALUES(9,'20270115-080000-5e1ac27f',1800000000.0,'action','restart succeeded: http://cart.example/cart/restart answered 200','{"action": "20270115-080000-5e1ac27f/restart-13bb5f0b", "strategy": "restart", "status": "succeeded"}');
INSERT INTO "timeline" VALUES(10,'20270115-080000-5e1ac27f',1800000000.0,'state','recovering -> verifying','{"from": "recovering", "to": "verifying"}');
INSERT INTO "timeline" VALUES(11,'20270115-080000-5e1ac27f',1800000007.0,'verification','Healed: inside all limits for 5 s, on samples newer than the action.','{"verdict": "healed", "evidence": [{"statement": "heartbeat is 1 (share of targets that answer), inside its limit: all answer.", "query": "service:shf_up:ratio{service=\"cart\"}", "value": 1.0, "at": 1800000007.0}]}');
INSERT INTO "timeline" VALUES(12,'20270115-080000-5e1ac27f',1800000007.0,'state','verifying -> resolved','{"from": "verifying", "to": "resolved"}');
INSERT INTO "timeline" VALUES(13,'20270115-080000-5e1ac27f',1800000307.0,'state','resolved -> closed','{"from": "resolved", "to": "closed"}');
INSERT INTO "timeline" VALUES(14,'20270115-080740-9de5c030',1800000460.0,'alert','Test opened the incident: it fails','{"fingerprint": "weird-nobody", "starts_at": "1800000460", "labels": {"alertname": "Test", "signal": "weird", "severity": "critical", "note": "two\nlines and \u00fc", "service": "nobody"}, "annotations": {"summary": "it fails"}}');
INSERT INTO "timeline" VALUES(15,'20270115-080740-0e3b2251',1800000460.0,'alert','Test opened the incident: it fails','{"fingerprint": "x-None", "starts_at": "1800000460", "labels": {"alertname": "Test", "signal": "x", "severity": "critical"}, "annotations": {"summary": "it fails"}}');
INSERT INTO "timeline" VALUES(16,'20270115-080740-9de5c030',1800000460.0,'escalation','Level 1 (execution orchestrator), calling guardian-five: the alert names ''nobody'', which the configuration does not: nothing will be done about it','{"level": 1, "level_name": "execution orchestrator", "called": ["guardian-five"], "reason": "the alert names ''nobody'', which the configuration does not: nothing will be done about it"}');
INSERT INTO "timeline" VALUES(17,'20270115-080740-9de5c030',1800000460.0,'state','detected -> escalated','{"from": "detected", "to": "escalated"}');
INSERT INTO "timeline" VALUES(18,'20270115-080740-0e3b2251',1800000460.0,'escalation','Level 1 (execution orchestrator), calling guardian-five: the alert names no service, which the configuration does not: nothing will be done about it','{"level": 1, "level_name": "execution orchestrator", "called": ["guardian-five"], "reason": "the alert names no service, which the configuration does not: nothing will be done about it"}');
INSERT INTO "timeline" VALUES(19,'20270115-080740-0e3b2251',1800000460.0,'state','detected -> escalated','{"from": "detected", "to": "escalated"}');
INSERT INTO "timeline" VALUES(20,'20270115-080745-1c769857',1800000465.0,'alert','Test opened the incident: it fails','{"fingerprint": "errors-db", "starts_at": "1800000465", "labels": {"alertname": "Test", "signal": "errors", "severity": "critical", "service": "db"}, "annotations": {"summary": "it fails"}}');
INSERT INTO "timeline" VALUES(21,'20270115-080745-1c769857',1800000465.0,'state','detected -> diagnosing','{"from": "detected", "to": "diagnosing"}');
INSERT INTO "timeline" VALUES(22,'20270115-080745-1c769857',1800000465.0,'diagnosis','unknown: nothing that is measured explains the alert. Cause: unknown in db, confidence 0.00.','{"failure_class": "unknown", "reason": "nothing that is measured explains the alert", "evidence": [], "cause": {"pattern": "unknown", "service": "db", "confidence": 0.0, "evidence": []}, "alternatives": [], "impact": {"severity": "critical", "urgency": "now", "users_affected": null, "tier": "standard", "dependants": [], "evidence": []}}');
INSERT INTO "timeline" VALUES(23,'20270115-080745-1c769857',1800000465.0,'plan','Plan: nothing that may be tried.','{"strategies": []}');
INSERT INTO "timeline" VALUES(24,'20270115-080745-1c769857',1800000465.0,'escalation','Level 1 (execution orchestrator), calling guardian-five: nothing may be tried for unknown','{"level": 1, "level_name": "execution orchestrator", "called": ["guardian-five"], "reason": "nothing may be tried for unknown"}');
INSERT INTO "timeline" VALUES(25,'20270115-080745-1c769857',1800000465.0,'state','diagnosing -> escalated','{"from": "diagnosing", "to": "escalated"}');
INSERT INTO "timeline" VALUES(26,'20270115-080745-1c769857',1800000470.0,'note','ann closed the incident.','{}');
INSERT INTO "timeline" VALUES(27,'20270115-080745-1c769857',1800000470.0,'state','escalated -> closed','{"from": "escalated", "to": "closed", "by": "ann"}');
INSERT INTO "timeline" VALUES(28,'20270115-080745-1c769857',1800000470.0,'note','ann: known','{}');
INSERT INTO "timeline" VALUES(29,'20270115-080750-b987cd81',1800000470.0,'alert','Test opened the incident: it fails','{"fingerprint": "heartbeat-cart", "starts_at": "1800000470", "labels": {"alertname": "Test", "signal": "heartbeat", "severity": "critical", "service": "cart"}, "annotations": {"summary": "it fails"}}');
INSERT INTO "timeline" VALUES(30,'20270115-080750-b987cd81',1800000470.0,'state','detected -> diagnosing','{"from": "detected", "to": "diagnosing"}');
INSERT INTO "timeline" VALUES(31,'20270115-080750-b987cd81',1800000470.5,'evidence','cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.','{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}');
INSERT INTO "timeline" VALUES(32,'20270115-080750-b987cd81',1800000470.5,'diagnosis','service_failure: the service does not answer. Cause: unknown in cart, confidence 0.00.','{"failure_class": "service_failure", "reason": "the service does not answer", "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}], "cause": {"pattern": "unknown", "service": "cart", "confidence": 0.0, "evidence": []}, "alternatives": [{"pattern": "code_bug", "service": "cart", "confidence": 0.25, "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}]}], "impact": {"severity": "critical", "urgency": "now", "users_affected": 1.0, "tier": "standard", "dependants": [], "evidence": [{"statement": "cart: heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_heartbeat:answered{service=\"cart\"}", "value": 0.0, "at": 1800000470.5}]}}');
INSERT INTO "timeline" VALUES(33,'20270115-080750-b987cd81',1800000470.5,'plan','Plan: restart.','{"strategies": ["restart"]}');
INSERT INTO "timeline" VALUES(34,'20270115-080750-b987cd81',1800000470.5,'state','diagnosing -> recovering','{"from": "diagnosing", "to": "recovering"}');
INSERT INTO "timeline" VALUES(35,'20270115-080750-b987cd81',1800000471.0,'evidence','heartbeat is 0 (share of targets that answer), outside its limit: all answer.','{"statement": "heartbeat is 0 (share of targets that answer), outside its limit: all answer.", "query": "service:shf_up:ratio{service=\"cart\"}", "value": 0.0, "at": 1800000471.0}');
INSERT INTO "timeline" VALUES(36,'20270115-080750-b987cd81',1800000471.0,'action','Intends to restart http:http://cart.example/cart/restart (attempt 1).','{"action": "20270115-080750-b987cd81/restart-c38b5477", "strategy": "restart", "target": "http:http://cart.example/cart/restart"}');
CREATE INDEX incidents_due ON incidents (due_at);
CREATE INDEX incidents_by_time ON incidents (opened_at, id);
CREATE UNIQUE INDEX one_open_incident_a_subject ON incidents (subject) WHERE closed_at IS NULL;
CREATE INDEX alerts_by_incident ON alerts (incident_id);
CREATE INDEX actions_by_incident ON actions (incident_id);
CREATE INDEX actions_by_target ON actions (target, intended_at);
CREATE INDEX timeline_by_incident ON timeline (incident_id, id);
CREATE TRIGGER timeline_refuses_update BEFORE UPDATE ON timeline BEGIN SELECT RAISE(ABORT, 'the timeline is append-only'); END;
CREATE TRIGGER timeline_refuses_delete BEFORE DELETE ON timeline BEGIN SELECT RAISE(ABORT, 'the timeline is append-only'); END;
CREATE TRIGGER timeline_refuses_insert BEFORE INSERT ON timeline WHEN EXISTS (SELECT 1 FROM timeline WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'the timeline is append-only'); END;
COMMIT;
