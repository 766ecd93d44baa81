CREATE TABLE `django_outbox_activity` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `period` datetime(6) NOT NULL,
  `last_id` bigint(20) NOT NULL,
  `published` bigint(20) unsigned NOT NULL CHECK (`published` >= 0),
  `consumed` bigint(20) unsigned NOT NULL CHECK (`consumed` >= 0),
  `inbox_received` bigint(20) unsigned NOT NULL DEFAULT 0 CHECK (`inbox_received` >= 0),
  `inbox_consumed` bigint(20) unsigned NOT NULL DEFAULT 0 CHECK (`inbox_consumed` >= 0),
  PRIMARY KEY (`id`),
  UNIQUE KEY `period` (`period`)
) ENGINE=InnoDB;
INSERT INTO `django_outbox_activity` (`id`, `period`, `last_id`, `published`, `consumed`, `inbox_received`, `inbox_consumed`) VALUES (1,'2026-11-01 00:00:00.000000',7,5,4,3,2);
CREATE TABLE `django_outbox_inboxmessage` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `group` varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `source` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `event_id` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `event_type` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `event_version` varchar(32) NOT NULL,
  `event_time` datetime(6) DEFAULT NULL,
  `topic` varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `partition` int(11) NOT NULL,
  `offset` bigint(20) NOT NULL,
  `message_key` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `payload` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`payload`)),
  `headers` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`headers`)),
  `content_type` varchar(255) DEFAULT NULL,
  `raw_key` longblob DEFAULT NULL,
  `raw_value` longblob DEFAULT NULL,
  `status` varchar(8) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `delivery_count` int(10) unsigned NOT NULL CHECK (`delivery_count` >= 0),
  `retry_count` int(10) unsigned NOT NULL CHECK (`retry_count` >= 0),
  `max_retry` int(10) unsigned NOT NULL CHECK (`max_retry` >= 0),
  `next_retry_at` datetime(6) DEFAULT utc_timestamp(6),
  `last_error` longtext NOT NULL,
  `fingerprint` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT '',
  `created_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `updated_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `consumed_at` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `django_outbox_inbox_identity` (`group`,`source`,`event_id`),
  KEY `django_outbox_inbox_due` (`group`,`next_retry_at`,`id`),
  KEY `django_outbox_inbox_key` (`group`,`topic`,`message_key`,`status`,`id`),
  KEY `django_outbox_inbox_unfinished` (`status`,`id`),
  CONSTRAINT `django_outbox_inbox_status_known` CHECK (`status` in ('pending','consumed','dead')),
  CONSTRAINT `django_outbox_inbox_due_when_pending` CHECK (`next_retry_at` is not null and `status` = 'pending' or `status` <> 'pending' and `next_retry_at` is null),
  CONSTRAINT `django_outbox_inbox_consumed_at` CHECK (`consumed_at` is not null and `status` = 'consumed' or `status` <> 'consumed' and `consumed_at` is null)
) ENGINE=InnoDB;
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (1,'tests','warehouse','stored-0','up.inbox.pending','v2','2026-11-01 00:00:00.000000','elsewhere',0,0,'a','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}','{\"tenant\": \"blue\", \"note\": \"Zo\\u00eb\"}',NULL,NULL,NULL,'pending',1,1,7,'2026-12-01 00:41:34.892157','ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers','2026-12-01 00:41:34.892157','2026-12-01 00:41:34.892157',NULL);
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (2,'tests','warehouse','stored-1','up.inbox.pending.bytes','v1',NULL,'elsewhere',0,1,'',NULL,'{}','image/png',NULL,0x00FF275C3B6279746573,'pending',0,0,20,'2026-12-01 00:41:34.898608','','','2026-12-01 00:41:34.898608','2026-12-01 00:41:34.898608',NULL);
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (3,'tests','warehouse','stored-2','up.inbox.pending.tombstone','v1',NULL,'elsewhere',0,2,'b',NULL,'{}','',NULL,NULL,'pending',0,0,20,'2026-12-01 00:41:34.902021','','','2026-12-01 00:41:34.902021','2026-12-01 00:41:34.902021',NULL);
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (4,'tests','warehouse','stored-3','up.inbox.delayed','v1',NULL,'elsewhere',0,3,'','{\"order\": 1}','{}',NULL,NULL,NULL,'pending',0,0,20,'2099-01-01 00:00:00.000000','','','2026-12-01 00:41:34.907665','2026-12-01 00:41:34.907665',NULL);
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (5,'tests','warehouse','stored-4','up.inbox.consumed','v1','2026-11-01 00:00:00.000000','elsewhere',0,4,'','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}','{\"tenant\": \"blue\", \"note\": \"Zo\\u00eb\"}',NULL,NULL,NULL,'consumed',0,0,20,NULL,'','','2026-12-01 00:41:34.909401','2026-12-01 00:41:34.909401','2026-12-01 00:41:34.909401');
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (6,'tests','warehouse','stored-5','up.inbox.dead','v1','2026-11-01 00:00:00.000000','elsewhere',0,5,'','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}','{\"tenant\": \"blue\", \"note\": \"Zo\\u00eb\"}',NULL,NULL,NULL,'dead',0,20,20,NULL,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers','2026-12-01 00:41:34.910972','2026-12-01 00:41:34.910972',NULL);
INSERT INTO `django_outbox_inboxmessage` (`id`, `group`, `source`, `event_id`, `event_type`, `event_version`, `event_time`, `topic`, `partition`, `offset`, `message_key`, `payload`, `headers`, `content_type`, `raw_key`, `raw_value`, `status`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `created_at`, `updated_at`, `consumed_at`) VALUES (7,'tests','','elsewhere/0/9','','v1',NULL,'elsewhere',0,6,'',NULL,'{}',NULL,0xFF,0x00FF275C3B6279746573,'dead',0,0,20,NULL,'its key is not UTF-8 text','','2026-12-01 00:41:34.917745','2026-12-01 00:41:34.917745',NULL);
CREATE TABLE `django_outbox_messagefailure` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `occurred_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `worker` varchar(255) NOT NULL,
  `stage` varchar(6) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `attempt` int(10) unsigned NOT NULL CHECK (`attempt` >= 0),
  `published_at` datetime(6) DEFAULT NULL,
  `partition` int(11) DEFAULT NULL,
  `offset` bigint(20) DEFAULT NULL,
  `final` tinyint(1) NOT NULL,
  `error` longtext NOT NULL,
  `fingerprint` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `inbox_message_id` bigint(20) DEFAULT NULL,
  `message_id` bigint(20) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `django_outbox_messag_inbox_message_id_e43c0fde_fk_django_ou` (`inbox_message_id`),
  KEY `django_outbox_messag_message_id_b8a16e1b_fk_django_ou` (`message_id`),
  KEY `django_outbox_given_up` (`occurred_at`),
  CONSTRAINT `django_outbox_messag_inbox_message_id_e43c0fde_fk_django_ou` FOREIGN KEY (`inbox_message_id`) REFERENCES `django_outbox_inboxmessage` (`id`),
  CONSTRAINT `django_outbox_messag_message_id_b8a16e1b_fk_django_ou` FOREIGN KEY (`message_id`) REFERENCES `django_outbox_outboxmessage` (`id`)
) ENGINE=InnoDB;
INSERT INTO `django_outbox_messagefailure` (`id`, `occurred_at`, `worker`, `stage`, `attempt`, `published_at`, `partition`, `offset`, `final`, `error`, `fingerprint`, `inbox_message_id`, `message_id`) VALUES (1,'2026-12-01 00:41:34.860319','host:1','handle',1,'2026-11-01 00:00:00.000000',0,98,0,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',NULL,14);
INSERT INTO `django_outbox_messagefailure` (`id`, `occurred_at`, `worker`, `stage`, `attempt`, `published_at`, `partition`, `offset`, `final`, `error`, `fingerprint`, `inbox_message_id`, `message_id`) VALUES (2,'2026-12-01 00:41:34.865437','host:1','send',1,NULL,NULL,NULL,0,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',NULL,15);
INSERT INTO `django_outbox_messagefailure` (`id`, `occurred_at`, `worker`, `stage`, `attempt`, `published_at`, `partition`, `offset`, `final`, `error`, `fingerprint`, `inbox_message_id`, `message_id`) VALUES (3,'2026-12-01 00:41:34.880402','host:1','handle',20,'2026-11-01 00:00:00.000000',0,98,1,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',NULL,19);
INSERT INTO `django_outbox_messagefailure` (`id`, `occurred_at`, `worker`, `stage`, `attempt`, `published_at`, `partition`, `offset`, `final`, `error`, `fingerprint`, `inbox_message_id`, `message_id`) VALUES (4,'2026-12-01 00:41:34.888436','admin','cancel',0,NULL,NULL,NULL,1,'not wanted','',NULL,21);
INSERT INTO `django_outbox_messagefailure` (`id`, `occurred_at`, `worker`, `stage`, `attempt`, `published_at`, `partition`, `offset`, `final`, `error`, `fingerprint`, `inbox_message_id`, `message_id`) VALUES (5,'2026-12-01 00:41:34.897816','host:1','handle',1,'2026-11-01 00:00:00.000000',0,98,0,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',1,NULL);
INSERT INTO `django_outbox_messagefailure` (`id`, `occurred_at`, `worker`, `stage`, `attempt`, `published_at`, `partition`, `offset`, `final`, `error`, `fingerprint`, `inbox_message_id`, `message_id`) VALUES (6,'2026-12-01 00:41:34.917112','host:1','handle',20,'2026-11-01 00:00:00.000000',0,98,1,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',6,NULL);
CREATE TABLE `django_outbox_outboxmessage` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `source` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT 'tests',
  `event_id` uuid NOT NULL,
  `event_type` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `event_version` varchar(32) NOT NULL,
  `topic` varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `message_key` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `payload` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`payload`)),
  `raw_value` longblob DEFAULT NULL,
  `headers` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`headers`)),
  `content_type` varchar(255) DEFAULT NULL,
  `status` varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `publish_count` int(10) unsigned NOT NULL CHECK (`publish_count` >= 0),
  `delivery_count` int(10) unsigned NOT NULL CHECK (`delivery_count` >= 0),
  `retry_count` int(10) unsigned NOT NULL CHECK (`retry_count` >= 0),
  `max_retry` int(10) unsigned NOT NULL CHECK (`max_retry` >= 0),
  `next_retry_at` datetime(6) DEFAULT utc_timestamp(6),
  `last_error` longtext NOT NULL,
  `fingerprint` varchar(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT '',
  `partition` int(11) DEFAULT NULL,
  `offset` bigint(20) DEFAULT NULL,
  `created_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `updated_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `published_at` datetime(6) DEFAULT NULL,
  `consumed_at` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `event_id` (`event_id`),
  KEY `django_outbox_due` (`source`,`next_retry_at`,`id`),
  KEY `django_outbox_key` (`topic`,`message_key`,`status`,`id`),
  KEY `django_outbox_key_sent` (`topic`,`message_key`,`event_type`,`id`),
  KEY `django_outbox_place` (`source`,`event_type`,`topic`,`partition`,`offset`),
  KEY `django_outbox_unfinished` (`status`,`id`,`source`),
  CONSTRAINT `django_outbox_status_known` CHECK (`status` in ('pending','published','consumed','dead')),
  CONSTRAINT `django_outbox_due_when_pending` CHECK (`next_retry_at` is not null and `status` = 'pending' or `status` <> 'pending' and `next_retry_at` is null),
  CONSTRAINT `django_outbox_consumed_at` CHECK (`consumed_at` is not null and `status` = 'consumed' or `status` <> 'consumed' and `consumed_at` is null)
) ENGINE=InnoDB;
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (1,'tests','fd8373ba-2c8e-5d8f-8e7e-089554ac6b62','up.published','v2','outbox','a','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}',NULL,'{\"tenant\": \"blue\", \"note\": \"Zo\\u00eb\"}',NULL,'published',1,0,0,20,NULL,'','',0,0,'2026-12-01 00:41:34.808566','2026-12-01 00:41:34.822038','2026-12-01 00:41:34.822038',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (2,'tests','155bd2a0-832e-59e7-b649-a8f59a9119a1','up.published.keyless','v1','outbox','','null',NULL,'{}',NULL,'published',1,0,0,20,NULL,'','',0,1,'2026-12-01 00:41:34.808566','2026-12-01 00:41:34.822038','2026-12-01 00:41:34.822038',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (3,'tests','7f814b00-5d48-5385-ba4a-88a22d8361f6','up.published.bytes','v1','outbox','Zoë','null',0x00FF275C3B6279746573,'{}','image/png','published',1,0,0,20,NULL,'','',0,2,'2026-12-01 00:41:34.808566','2026-12-01 00:41:34.822038','2026-12-01 00:41:34.822038',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (4,'tests','e73c7818-f411-538c-98f2-b9673279f69f','up.published.tombstone','v1','outbox','a','null',NULL,'{}','','published',1,0,0,20,NULL,'','',0,3,'2026-12-01 00:41:34.808566','2026-12-01 00:41:34.822038','2026-12-01 00:41:34.822038',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (5,'tests','69dd8a3a-a7c5-5bdf-b6d2-1636527666d2','up.envelope','v2','outbox','a','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}',NULL,'{\"tenant\": \"blue\", \"note\": \"Zo\\u00eb\"}',NULL,'published',1,0,0,20,NULL,'','',0,4,'2026-12-01 00:41:34.824179','2026-12-01 00:41:34.833382','2026-12-01 00:41:34.833382',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (6,'tests','25cf4cae-a97b-595f-aa71-56131fe8b9d3','up.envelope.keyless','v1','outbox','','[]',NULL,'{}',NULL,'published',1,0,0,20,NULL,'','',0,5,'2026-12-01 00:41:34.824179','2026-12-01 00:41:34.833382','2026-12-01 00:41:34.833382',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (7,'tests','1ec23155-eee3-5537-9a9b-f708665b3831','up.envelope.bytes','v1','outbox','c','null',0x00FF275C3B6279746573,'{}','application/octet-stream','published',1,0,0,20,NULL,'','',0,6,'2026-12-01 00:41:34.824179','2026-12-01 00:41:34.833382','2026-12-01 00:41:34.833382',NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (8,'tests','d44b0f9c-3944-56da-b431-0fb4c3affa00','up.debezium','v1','outbox','d','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}',NULL,'{}',NULL,'published',1,0,0,20,NULL,'','',NULL,NULL,'2026-12-01 00:41:34.834775','2026-12-01 00:41:34.834775',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (9,'tests','01a22f0c-c178-74e6-a1f3-2ef1e83dc5d1','up.pending','v2','outbox','e','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}',NULL,'{\"tenant\": \"blue\", \"note\": \"Zo\\u00eb\"}',NULL,'pending',0,0,0,20,'2026-12-01 00:41:34.840425','','',NULL,NULL,'2026-12-01 00:41:34.840425','2026-12-01 00:41:34.840425',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (10,'tests','01a22f0c-c17d-78d0-aca9-2b859274ea3e','up.pending.keyless','v1','outbox','','null',NULL,'{}',NULL,'pending',0,0,0,20,'2026-12-01 00:41:34.845552','','',NULL,NULL,'2026-12-01 00:41:34.845552','2026-12-01 00:41:34.845552',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (11,'tests','01a22f0c-c17f-7933-a699-d28ae5ef47dc','up.pending.bytes','v1','outbox','','null',0x00FF275C3B6279746573,'{}','image/png','pending',0,0,0,20,'2026-12-01 00:41:34.847429','','',NULL,NULL,'2026-12-01 00:41:34.847429','2026-12-01 00:41:34.847429',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (12,'tests','01a22f0c-c181-7032-adab-5c6eb23d1bb0','up.pending.tombstone','v1','outbox','e','null',NULL,'{}','','pending',0,0,0,20,'2026-12-01 00:41:34.850240','','',NULL,NULL,'2026-12-01 00:41:34.850240','2026-12-01 00:41:34.850240',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (13,'tests','01a22f0c-c188-781c-be51-c16fa907a2bd','up.delayed','v1','outbox','','{\"order\": 1}',NULL,'{}',NULL,'pending',0,0,0,20,'2099-01-01 00:00:00.000000','','',NULL,NULL,'2026-12-01 00:41:34.856773','2026-12-01 00:41:34.856773',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (14,'tests','01a22f0c-c18a-72fe-bc34-e4d515825e2b','up.pending.failed','v1','outbox','f','{\"order\": 1}',NULL,'{}',NULL,'pending',1,0,1,7,'2026-12-01 00:41:34.858528','ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',NULL,NULL,'2026-12-01 00:41:34.858528','2026-12-01 00:41:34.858528',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (15,'tests','01a22f0c-c18c-7435-8443-39a5c6ab2c8e','up.pending.refused','v1','outbox','','{\"order\": 1}',NULL,'{}',NULL,'pending',0,0,1,20,'2026-12-01 00:41:34.861160','ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',NULL,NULL,'2026-12-01 00:41:34.861160','2026-12-01 00:41:34.861160',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (16,'tests','01a22f0c-c191-775c-8b4c-dfe8d967ea20','up.paused','v1','outbox','','{\"order\": 1}',NULL,'{}',NULL,'pending',0,0,0,20,'2026-11-01 00:00:00.000000','','',NULL,NULL,'2026-12-01 00:41:34.866395','2026-12-01 00:41:34.866395',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (17,'billing','01a22f0c-c198-7728-9e06-19dd0bf6b160','up.of_another_service','v1','outbox','','{\"order\": 1}',NULL,'{}',NULL,'pending',0,0,0,20,'2026-12-01 00:41:34.872698','','',NULL,NULL,'2026-12-01 00:41:34.872698','2026-12-01 00:41:34.872698',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (18,'tests','01a22f0c-c19a-7525-ae69-e67d063bf7e4','up.consumed','v1','outbox','','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}',NULL,'{}',NULL,'consumed',1,0,0,20,NULL,'','',0,99,'2026-12-01 00:41:34.874387','2026-12-01 00:41:34.874387',NULL,'2026-12-01 00:41:34.874387');
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (19,'tests','01a22f0c-c19b-7406-96d2-273c56eac12f','up.dead','v1','outbox','g','{\"order\": 1, \"name\": \"Zo\\u00eb\", \"price\": \"9.90\", \"tags\": [\"a\", null, true], \"weight\": 1.5}',NULL,'{}',NULL,'dead',1,0,20,20,NULL,'ArithmeticError: it\'s 100 % \"broken\"\n  File \"handlers.py\", line 7','ArithmeticError in handlers',NULL,NULL,'2026-12-01 00:41:34.876116','2026-12-01 00:41:34.876116',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (20,'tests','01a22f0c-c1a0-7f1b-96ea-d09a2d862cce','up.pending.behind_dead','v1','outbox','g','{\"order\": 1}',NULL,'{}',NULL,'pending',0,0,0,20,'2026-12-01 00:41:34.881093','','',NULL,NULL,'2026-12-01 00:41:34.881093','2026-12-01 00:41:34.881093',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (21,'tests','01a22f0c-c1a2-71b5-a525-390ff8099d5e','up.dead.cancelled','v1','outbox','','{\"order\": 1}',NULL,'{}',NULL,'dead',0,0,0,20,NULL,'not wanted','',NULL,NULL,'2026-12-01 00:41:34.882633','2026-12-01 00:41:34.882633',NULL,NULL);
INSERT INTO `django_outbox_outboxmessage` (`id`, `source`, `event_id`, `event_type`, `event_version`, `topic`, `message_key`, `payload`, `raw_value`, `headers`, `content_type`, `status`, `publish_count`, `delivery_count`, `retry_count`, `max_retry`, `next_retry_at`, `last_error`, `fingerprint`, `partition`, `offset`, `created_at`, `updated_at`, `published_at`, `consumed_at`) VALUES (22,'tests','01a22f0c-c1a8-77e2-b69d-5d0167787f5d','up.dead.killer','v1','outbox','','{\"order\": 1}',NULL,'{}',NULL,'dead',1,5,0,20,NULL,'It killed its process','',NULL,NULL,'2026-12-01 00:41:34.889056','2026-12-01 00:41:34.889056',NULL,NULL);
CREATE TABLE `django_outbox_pause` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `group` varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `event_type` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `handler` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `reason` varchar(500) NOT NULL,
  `created_by` varchar(255) NOT NULL,
  `created_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `until` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `django_outbox_pause_subject` (`group`,`event_type`,`handler`),
  CONSTRAINT `django_outbox_pause_of_one` CHECK (`event_type` = '' and `handler` <> '' or `event_type` <> '' and `handler` = '')
) ENGINE=InnoDB;
INSERT INTO `django_outbox_pause` (`id`, `group`, `event_type`, `handler`, `reason`, `created_by`, `created_at`, `until`) VALUES (1,'tests','up.paused','','maintenance','ann','2026-11-01 00:00:00.000000',NULL);
INSERT INTO `django_outbox_pause` (`id`, `group`, `event_type`, `handler`, `reason`, `created_by`, `created_at`, `until`) VALUES (2,'tests','','up.handlers.broken','it fails','circuit breaker','2026-11-01 00:00:00.000000','2099-01-01 00:00:00.000000');
CREATE TABLE `django_outbox_worker` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `kind` varchar(16) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `host` varchar(255) NOT NULL,
  `pid` bigint(20) unsigned NOT NULL CHECK (`pid` >= 0),
  `group` varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT '',
  `source` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT 'tests',
  `topics` varchar(1000) NOT NULL DEFAULT '',
  `version` varchar(32) NOT NULL,
  `started_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `last_seen_at` datetime(6) NOT NULL DEFAULT utc_timestamp(6),
  `rate` double NOT NULL,
  `state` varchar(16) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
  `trouble` varchar(1000) NOT NULL,
  `lanes` int(10) unsigned NOT NULL DEFAULT 1 CHECK (`lanes` >= 0),
  `busy_lanes` int(10) unsigned NOT NULL DEFAULT 0 CHECK (`busy_lanes` >= 0),
  `in_progress` int(10) unsigned NOT NULL DEFAULT 0 CHECK (`in_progress` >= 0),
  `busy_since` datetime(6) DEFAULT NULL,
  `busy_key` varchar(506) NOT NULL DEFAULT '',
  PRIMARY KEY (`id`)
) ENGINE=InnoDB;
INSERT INTO `django_outbox_worker` (`id`, `kind`, `host`, `pid`, `group`, `source`, `topics`, `version`, `started_at`, `last_seen_at`, `rate`, `state`, `trouble`, `lanes`, `busy_lanes`, `in_progress`, `busy_since`, `busy_key`) VALUES (1,'relay','host',1,'','billing','','1','2026-11-01 00:00:00.000000','2026-11-01 00:00:00.000000',0,'trouble','away',1,0,0,NULL,'');
INSERT INTO `django_outbox_worker` (`id`, `kind`, `host`, `pid`, `group`, `source`, `topics`, `version`, `started_at`, `last_seen_at`, `rate`, `state`, `trouble`, `lanes`, `busy_lanes`, `in_progress`, `busy_since`, `busy_key`) VALUES (2,'consumer','host',2,'tests','tests','outbox','1','2026-11-01 00:00:00.000000','2026-11-01 00:00:00.000000',1.5,'working','',8,2,3,'2026-11-01 00:00:00.000000','outbox: a');
INSERT INTO django_migrations (app, name, applied) VALUES ('django_outbox', '0001_initial', '2026-11-01 00:00:00');
