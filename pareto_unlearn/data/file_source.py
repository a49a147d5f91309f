"""A data set of image files as a ``Source``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pareto_unlearn.data.file_images import FileDigests, FileImages, FileLocator, ImageFile
from pareto_unlearn.data.image_sets import Digests, Images
from pareto_unlearn.data.listing import FileTree
from pareto_unlearn.data.pixel_cache import CacheRoom
from pareto_unlearn.data.reading import digest_file
from pareto_unlearn.data.sources import Members
from pareto_unlearn.records import PixelFormat


class FileSource:
    """The image files of a tree, read in one pixel format.

    Args:
        tree: the data set.
        pixels: the format.
        room: where decoded images are kept.
        follow_links: links may lead out of the data set.
    """

    def __init__(
        self, tree: FileTree, pixels: PixelFormat, room: CacheRoom, *, follow_links: bool = False
    ) -> None:
        self._tree, self._pixels, self._room, self._follow_links = tree, pixels, room, follow_links
        # Its thread starts with the first read-ahead and ends when the last of the images is freed.
        self._reader = ThreadPoolExecutor(1)
        self.class_names = tree.class_names

    def list_images(self, classes: Sequence[str]) -> Mapping[str, Members]:
        """Return the image ids of each of these classes.

        Raises:
            ConfigError: the images are not where the layout expects them.
        """
        return self._tree.list_images(classes)

    def open(self, image_ids: Sequence[str]) -> tuple[Images, Digests]:
        """Return images that are read when they are indexed, and digests that are computed on first access.

        Raises:
            ConfigError: a file is missing, empty or outside the root.
        """
        files = self._locate(image_ids)
        images = FileImages(files, self._pixels, self._room, self._reader)
        return images, FileDigests(files, self._pixels)

    def identify(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return for each file its size, or its digest where another of the files has the same size.

        Raises:
            ConfigError: a file is missing, empty, outside the root, or cannot be read.
        """
        files = self._locate(image_ids)
        files_of_size = Counter(file.num_bytes for file in files)
        return [
            digest_file(file.path) if files_of_size[file.num_bytes] > 1 else f"{file.num_bytes} bytes"
            for file in files
        ]

    def _locate(self, image_ids: Sequence[str]) -> list[ImageFile]:
        locator = FileLocator(self._tree.root, follow_links=self._follow_links)
        return [locator.locate(image_id) for image_id in image_ids]
