<?php
/* One page of a site that keeps its sessions in memcached: each request counts, and keeps what was there.
 * Served by php -S; t/clients/clients_php_session.sh asks for it many times at once. */
session_start();
if (!isset($_SESSION["n"])) {
    $_SESSION["n"] = 0;
    $_SESSION["kept"] = str_repeat("kept-", 800);
}
$_SESSION["n"]++;
if ($_SESSION["kept"] !== str_repeat("kept-", 800))
    http_response_code(500);
echo $_SESSION["n"];
