"""Files in, files out, and none left behind."""

from __future__ import annotations

from uuid import uuid4

import anyio
import pytest

from pipeline.errors import NotFound
from pipeline.store import Fenced, Store
from pipeline.store.rules import CHUNK_BYTES
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    PROBLEM,
    Everything,
    PassTime,
    Settle,
    a_request,
    claim,
    every_end,
    nothing_ready,
    read,
    submit,
    upload,
)


class TestUploads:
    async def test_a_file_of_any_chunks_comes_out_as_it_went_in(self, store: Store) -> None:
        chunks = [b"", b"a" * 10, b"b" * (2 * CHUNK_BYTES + 1), b"c" * (CHUNK_BYTES - 11), b"d"]
        file = await upload(store, *chunks)
        job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        taken = await claim(store)

        assert job.uploads == taken.job.uploads == (file,)
        received = await read(store, taken, file)
        assert b"".join(received) == b"".join(chunks)
        assert max(map(len, received)) <= CHUNK_BYTES

    async def test_an_empty_file_is_a_file(self, store: Store) -> None:
        file = await upload(store)
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])

        assert await read(store, await claim(store), file) == []

    async def test_files_keep_their_order(self, store: Store) -> None:
        files = [await upload(store, b"x") for _ in range(4)]
        files.sort()
        job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=files[::-1])

        assert job.uploads == tuple(files[::-1])
        assert (await claim(store)).job.uploads == tuple(files[::-1])

    async def test_only_the_own_whole_and_unused_uploads_make_a_job(self, store: Store) -> None:
        foreign = await upload(store, b"theirs", tenant=GLOBEX)
        used = await upload(store, b"used")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[used])
        await claim(store)
        twice = await upload(store, b"twice")
        async with store.tenant(ACME).upload() as arriving:
            await arriving.write(b"half")
            for files in ([foreign], [used], [twice, twice], [arriving.id], [uuid4()], [twice, foreign]):
                with pytest.raises(NotFound):
                    await store.tenant(ACME).submit(a_request(media_url=None), uploads=files)

        assert await nothing_ready(store)
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[twice])
        assert await read(store, await claim(store), twice) == [b"twice"]

    async def test_an_upload_that_breaks_off_is_erased(self, store: Store) -> None:
        receiving = store.tenant(ACME).upload()
        file = await receiving.__aenter__()
        await file.write(b"half of it")
        gone = ConnectionResetError()

        assert not await receiving.__aexit__(type(gone), gone, None)
        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file.id])

    async def test_a_cancelled_upload_is_erased(self, store: Store) -> None:
        with anyio.CancelScope() as scope:
            async with store.tenant(ACME).upload() as file:
                await file.write(b"half of it")
                scope.cancel()
                await anyio.sleep_forever()
        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file.id])

    async def test_discarded_uploads_are_gone_but_not_those_of_others(self, store: Store) -> None:
        mine, foreign = await upload(store, b"mine"), await upload(store, b"theirs", tenant=GLOBEX)
        await store.tenant(ACME).discard([mine, foreign, uuid4()])

        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[mine])
        await store.tenant(GLOBEX).submit(a_request(media_url=None), uploads=[foreign])

    async def test_a_job_keeps_its_uploads_when_they_are_discarded(self, store: Store) -> None:
        file = await upload(store, b"mine")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        await store.tenant(ACME).discard([file])

        assert await read(store, await claim(store), file) == [b"mine"]

    @every_end
    async def test_uploads_are_erased_when_the_job_ends(
        self, store: Store, settle: Settle, everything: Everything
    ) -> None:
        file = await upload(store, b"x" * CHUNK_BYTES, b"y")
        job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        taken = await claim(store)
        await settle(store.queue(), taken)

        assert (await store.tenant(ACME).get(job.id)).uploads == ()
        assert "xxx" not in await everything()
        with pytest.raises(Fenced):
            await read(store, taken, file)

    async def test_a_file_that_is_erased_while_it_is_read_does_not_just_end(self, store: Store) -> None:
        file = await upload(store, b"x" * (2 * CHUNK_BYTES))
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        taken = await claim(store)
        chunks = aiter(store.queue().read_upload(taken, file))
        assert len(await anext(chunks)) == CHUNK_BYTES
        await store.queue().cancel(taken)

        with pytest.raises(Fenced):
            await anext(chunks)

    async def test_a_retried_job_keeps_its_uploads(self, store: Store) -> None:
        file = await upload(store, b"kept")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)

        assert await read(store, await claim(store), file) == [b"kept"]

    async def test_only_a_claims_own_uploads_can_be_read(self, store: Store) -> None:
        file = await upload(store, b"theirs", tenant=GLOBEX)
        await submit(store)
        taken = await claim(store)
        await store.tenant(GLOBEX).submit(a_request(media_url=None), uploads=[file])

        with pytest.raises(Fenced):
            await read(store, taken, file)

    async def test_an_hour_old_upload_without_a_job_is_swept(self, store: Store, pass_time: PassTime) -> None:
        used, orphan = await upload(store, b"used"), await upload(store, b"orphan")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[used])
        await pass_time(3601)
        fresh = await upload(store, b"fresh")
        await store.queue().sweep()

        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[orphan])
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[fresh])
        assert await read(store, await claim(store), used) == [b"used"]
        assert await read(store, await claim(store), fresh) == [b"fresh"]

    async def test_a_slow_upload_is_no_orphan(self, store: Store, pass_time: PassTime) -> None:
        async with store.tenant(ACME).upload() as file:
            for _ in range(3):
                await file.write(b"x" * CHUNK_BYTES)
                await pass_time(3000)
                await store.queue().sweep()

        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file.id])
        assert len(await read(store, await claim(store), file.id)) == 3
